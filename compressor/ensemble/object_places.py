"""Places for objects of several detectors in one order.

Detectors that were trained apart have learnt other objects at each place (query, or token), so that what they compute
there cannot be compared.  Another order of places changes no answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import ANSWERS
from compressor.ensemble.objects import assigned, place_costs
from compressor.models.inputs import without_labels
from compressor.models.meta import meta_model
from compressor.models.tasks.table import task_of_model

#: Samples by which places are matched, and relative differences that are rounding.
MOST_SAMPLES, TOLERANCE = 256, 1e-4


@torch.no_grad()
def in_one_order(
    models: Sequence[PreTrainedModel], batches: Iterable[Mapping[str, Tensor]], reference: PreTrainedModel | None = None
) -> list[PreTrainedModel]:
    """Detectors whose places are in the order of the reference's; copies that share all other weights.

    Places are matched by what they hold in the mean over the first samples.  Other models, and detectors whose places
    are not rows of parameters, stay as they are.

    Args:
        batches: model inputs.
        reference: default the first.
    """
    first = models[0] if reference is None else reference
    if task_of_model(first).answers != "boxes" or (len(models) < 2 and reference is None):
        return list(models)
    inputs = _first_samples(batches)
    expected = _answers(first, inputs)
    ordered = []
    for model in models:
        own = _answers(model, inputs)
        mean = sum(place_costs(a, b).mean(0) * len(a) for a, b in zip(expected, own, strict=True))
        assert isinstance(mean, Tensor)
        order = assigned(mean[None])[0]
        same = model is first or bool((order == torch.arange(len(order), device=order.device)).all())
        ordered.append(model if same else _proven(model, order.cpu(), inputs[0]))
    return ordered


def place_axes(config: PretrainedConfig, places: int) -> Iterator[dict[str, int]]:
    """{parameter: its axis whose last entries may be places for objects}, by what one more place changes.

    One for each field of the config that may be their number; channels may be as many.
    """
    sizes = {name: value.shape for name, value in meta_model(config).named_parameters()}
    for field, value in vars(config).items():
        if value != places or isinstance(value, bool):
            continue
        more = copy.deepcopy(config)
        setattr(more, field, places + 1)
        try:
            larger = {name: each.shape for name, each in meta_model(more).named_parameters()}
        # Fields that depend on each other.
        except (ValueError, RuntimeError, TypeError):
            continue
        axes = {
            name: axis
            for name, size in sizes.items()
            for axis, pair in enumerate(zip(size, larger.get(name, size), strict=True))
            if pair[1] == pair[0] + 1
        }
        if axes:
            yield axes


def reordered(model: PreTrainedModel, order: Tensor, axes: Mapping[str, int]) -> PreTrainedModel:
    """A copy whose places [Q] are taken in an order; it shares all weights but those of places."""
    shared: dict[int, Tensor] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for name, axis in axes.items():
        path, _, attribute = name.rpartition(".")
        module = copied.get_submodule(path)
        weight = getattr(module, attribute)
        others = weight.shape[axis] - len(order)
        rows = torch.cat([torch.arange(others), others + order]).to(weight.device)
        setattr(module, attribute, nn.Parameter(weight.index_select(axis, rows), requires_grad=weight.requires_grad))
    return copied


def _proven(model: PreTrainedModel, order: Tensor, inputs: Mapping[str, Tensor]) -> PreTrainedModel:
    """The reordered model, if its answers are the same in that order; else the model."""
    expected = logits_of(model, inputs)[:, order]
    for axes in place_axes(model.config, len(order)):
        copied = reordered(model, order, axes)
        if float((logits_of(copied, inputs) - expected).norm()) <= TOLERANCE * float(expected.norm()):
            return copied
    return model


def _first_samples(batches: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    inputs: list[dict[str, Tensor]] = []
    count = 0
    for batch in batches:
        if count >= MOST_SAMPLES:
            break
        inputs.append(without_labels(batch))
        count += len(next(iter(batch.values())))
    return inputs


def _answers(model: PreTrainedModel, inputs: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    training = model.training
    moved = [{name: value.to(model.device) for name, value in batch.items()} for batch in inputs]
    rows = [ANSWERS["boxes"].rows(logits_of(model.eval(), batch).float()).cpu() for batch in moved]
    model.train(training)
    return rows

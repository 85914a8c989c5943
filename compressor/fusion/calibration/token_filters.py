"""Token filters, `name` or `name:argument` (Imfeld et al., 2024, section 4.3); padding never counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressor.anatomy import Anatomy
from compressor.anatomy.hooks import logits_of
from compressor.errors import UserError
from compressor.fusion.calibration.batches import Batch, sample_keys
from compressor.fusion.calibration.capture import capture_taps
from compressor.fusion.teacher import FusionTeacher
from compressor.models.inputs import without_labels
from compressor.transport import Registry

#: By batch and stack, which tokens [B, T] count; None where all of them do.
TokenMasks = list[tuple[Tensor, ...]] | None


@dataclass(frozen=True, eq=False)
class FilterInput:
    """Input of a token filter; `argument`: the text after the colon."""

    batches: Sequence[Batch]
    anatomy: Anatomy
    teachers: Sequence[FusionTeacher]
    argument: str | None

    @cached_property
    def shapes(self) -> list[tuple[tuple[int, int], ...]]:
        """Samples and tokens, by batch and stack."""
        taps = [(stack.layers[0], "in") for stack in self.anatomy.stacks]
        first = self.teachers[0]
        shapes: list[tuple[tuple[int, int], ...]] = []
        lengths: dict[tuple[int, ...], tuple[int, ...]] = {}
        for batch in self.batches:
            inputs = without_labels(batch)
            size = len(next(iter(inputs.values())))
            key = tuple(dim for value in inputs.values() for dim in value.shape[1:])
            if key not in lengths:
                with capture_taps(first.model, [(first.local_name(module), end) for module, end in taps]) as captured:
                    logits_of(first.model, {name: value[:1] for name, value in inputs.items()})
                lengths[key] = tuple(captured[first.local_name(module), end].shape[-2] for module, end in taps)
            shapes.append(tuple((size, length) for length in lengths[key]))
        return shapes

    def number(self, low: float, high: float, expected: str) -> float:
        """The argument as a number.

        Raises:
            UserError: it is no number in [low, high].
        """
        try:
            value = float(self.argument or "")
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise UserError(f"the token filter needs {expected} behind a colon, not {self.argument!r}")
        return value


TOKEN_FILTERS: Registry[Callable[[FilterInput], TokenMasks]] = Registry("token filter")


def token_masks(name: str, teachers: Sequence[FusionTeacher], anatomy: Anatomy, batches: Sequence[Batch]) -> TokenMasks:
    """The masks of the filter `name`, with its argument.

    Raises:
        UserError: name or argument is wrong, or the model unfit.
    """
    kind, colon, argument = name.partition(":")
    return TOKEN_FILTERS.get(kind)(FilterInput(batches, anatomy, teachers, argument if colon else None))


@TOKEN_FILTERS.register("all")
def every_token(filter_input: FilterInput) -> TokenMasks:
    """Compare all tokens."""
    return None


@TOKEN_FILTERS.register("class")
def first_token(filter_input: FilterInput) -> TokenMasks:
    """Compare the first token, which carries the class in ViT and BERT."""
    return _each(filter_input, lambda samples, tokens, _: (torch.arange(tokens) == 0).expand(samples, tokens))


@TOKEN_FILTERS.register("window")
def centre_window(filter_input: FilterInput) -> TokenMasks:
    """Compare the N × N central patches, and tokens that are no patches."""
    config = filter_input.teachers[0].model.config
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not isinstance(image, int) or not isinstance(patch, int):
        raise UserError(f"the token filter 'window' needs square images in patches, and {config.model_type} has none")
    grid = image // patch
    n = int(filter_input.number(1, grid, f"a number of patches from 1 to {grid}, such as window:{max(1, grid // 2)},"))
    start = (grid - n) // 2
    inside = torch.zeros(grid, grid, dtype=torch.bool)
    inside[start : start + n, start : start + n] = True

    def mask(samples: int, tokens: int, _: Batch) -> Tensor:
        if tokens < grid * grid:
            raise UserError(
                f"the token filter 'window' found {tokens} tokens where there should be {grid * grid} patches"
            )
        prefix = torch.ones(tokens - grid * grid, dtype=torch.bool)
        return torch.cat([prefix, inside.flatten()]).expand(samples, tokens)

    return _each(filter_input, mask)


@TOKEN_FILTERS.register("random")
def random_tokens(filter_input: FilterInput) -> TokenMasks:
    """Compare a share of each sample's real tokens, drawn with its key as seed."""
    share = filter_input.number(1e-6, 1, "a share above 0 and at most 1, such as random:0.25,")

    def mask(samples: int, tokens: int, batch: Batch) -> Tensor:
        drawn = torch.zeros(samples, tokens, dtype=torch.bool)
        masks = (batch.get(name) for name in ("attention_mask", "decoder_attention_mask"))
        real = next((m for m in masks if m is not None and m.shape[1] == tokens), torch.ones(samples, tokens))
        for row, key in enumerate(sample_keys(batch)):
            places = real[row].nonzero().flatten()
            order = torch.randperm(len(places), generator=torch.Generator().manual_seed(key % 2**63))
            drawn[row, places[order[: max(1, round(share * len(places)))]]] = True
        return drawn

    return _each(filter_input, mask)


@TOKEN_FILTERS.register("loss")
def easy_samples(filter_input: FilterInput) -> TokenMasks:
    """Compare samples on which the ensemble's loss is below a threshold in nats.

    Without labels, its own predictions are the labels.
    """
    limit = filter_input.number(0, float("inf"), "a loss in nats, such as loss:0.5,")
    losses = [_losses(filter_input, batch) for batch in filter_input.batches]
    if not any(bool((loss < limit).any()) for loss in losses):
        least = min(float(loss.min()) for loss in losses)
        raise UserError(
            f"the token filter loss:{filter_input.argument} leaves no sample: the least loss is {least:.3g}"
        )
    return [
        tuple((loss < limit)[:, None].expand(shape) for shape in shapes)
        for shapes, loss in zip(filter_input.shapes, losses, strict=True)
    ]


def _losses(filter_input: FilterInput, batch: Batch) -> Tensor:
    """The ensemble's mean cross-entropy per sample [B]."""
    inputs = without_labels(batch)
    probabilities = torch.stack(
        [teacher.weight * logits_of(teacher.model, inputs).double().softmax(-1) for teacher in filter_input.teachers]
    ).sum(0)
    labels = batch.get("labels")
    if labels is None or labels.shape != probabilities.shape[:-1]:
        labels = probabilities.argmax(-1)
    loss = -probabilities.gather(-1, labels.clamp(min=0)[..., None])[..., 0].clamp(min=1e-30).log()
    return loss if loss.dim() == 1 else loss.flatten(1).mean(1)


def _each(filter_input: FilterInput, mask: Callable[[int, int, Batch], Tensor]) -> TokenMasks:
    return [
        tuple(mask(samples, tokens, batch) for samples, tokens in shapes)
        for batch, shapes in zip(filter_input.batches, filter_input.shapes, strict=True)
    ]

"""Choose the ensemble's mixture from the teachers' predictions on calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import ANSWERS, two_classes
from compressor.ensemble.stacking import TEMPERATURES, Mixture, TeacherPredictions, choose_mixture
from compressor.fusion.anchored.policies import POLICIES
from compressor.fusion.calibration.batches import split_large_batches, take_samples
from compressor.models.inputs import without_labels
from compressor.models.tasks.table import task_of_model
from compressor.models.tasks.task import IGNORED, Task
from compressor.recipe import FusionOptions

#: Memory for predictions of all teachers; later samples are left out.
PREDICTION_BYTES = 1 << 28
#: Samples that tell whether teachers without labels agree.
UNLABELLED_SAMPLES = 32
#: Fewest labelled samples to choose by.
FEWEST_LABELLED = 32


def mixture_of(
    models: Sequence[PreTrainedModel],
    batches: Sequence[Mapping[str, Tensor]] | None,
    options: FusionOptions,
    on_fraction: Callable[[float], None] | None = None,
) -> Mixture:
    """The mixture of the options; "auto" is chosen from the models' predictions.

    Args:
        batches: model inputs, perhaps with "labels"; language models take the next tokens.  None: nothing to choose by.
    """
    weights, task = options.given_weights(len(models)), task_of_model(models[0])
    alike, fixed = task.answers == "embeddings", task.answers in ("pairs", "boxes", "embeddings")
    if not chooses_mixture(len(models), options) or not batches or not task.metrics or fixed:
        shares, values = tuple(weights or [1.0] * len(models)), alike or task.answers == "values"
        return Mixture(shares, TEMPERATURES[options.mixture][0], values=values)
    if not any(_count_labelled(task, _labels(task, batch)) for batch in batches):
        batches = take_samples(batches, UNLABELLED_SAMPLES)
    small = split_large_batches(batches, lambda batch: logits_of(models[0], without_labels(batch)).numel())
    return choose_mixture(collect_predictions(models, small, on_fraction), options.mixture, weights)


def chooses_mixture(teachers: int, options: FusionOptions) -> bool:
    """Whether predictions choose the mixture; an alignment to an anchor is compared with the paper, which has means."""
    fixed = options.weights != "auto" and options.mixture in ("probabilities", "logits")
    return teachers > 1 and not fixed and options.residual not in POLICIES.names()


@torch.no_grad()
def collect_predictions(
    models: Sequence[PreTrainedModel],
    batches: Sequence[Mapping[str, Tensor]],
    on_fraction: Callable[[float], None] | None = None,
) -> TeacherPredictions:
    """What models predict, on as many samples as fit the memory.

    Labels are left out where fewer than `FEWEST_LABELLED` samples have one.
    """
    task, room, start = task_of_model(models[0]), PREDICTION_BYTES, 0
    answers = ANSWERS[task.answers]
    labelled = [_labels(task, batch) for batch in batches]
    known = sum(_count_labelled(task, labels) for labels in labelled)
    with_labels = all(labels is not None for labels in labelled) and known >= FEWEST_LABELLED
    parts: list[list[Tensor]] = []
    for index, batch in enumerate(batches):
        inputs = without_labels(batch)
        first = next(iter(inputs.values()))
        samples = torch.arange(start, start + len(first), device=first.device)
        start += len(samples)
        log_probs = [answers.rows(logits_of(model, inputs).float()) for model in models]
        if log_probs[0].dim() > 2:
            positions = log_probs[0].shape[:-1]
            samples = samples.view(-1, *[1] * (len(positions) - 1)).expand(positions)
        columns = [*log_probs, samples[..., None]]
        labels = labelled[index]
        if with_labels and labels is not None:
            found = [task.answered(column, labels)[0] for column in columns] + [task.answered(columns[-1], labels)[1]]
        else:
            found = [task.counted(column, inputs) for column in columns]
        found = [column.cpu() for column in found]
        parts.append(found)
        room -= sum(column.nbytes for column in found)
        if on_fraction is not None:
            on_fraction((index + 1) / len(batches))
        if room < 0:
            break
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    count = len(models)
    rows, samples = tuple(columns[:count]), columns[count][:, 0]
    labels = columns[count + 1] if with_labels else None
    if task.answers == "labels":
        return _per_label(rows, samples, labels)
    return TeacherPredictions(
        rows, samples, labels, values=task.answers == "values", choice=task.metrics[0] == "accuracy"
    )


def _per_label(rows: Sequence[Tensor], samples: Tensor, labels: Tensor | None) -> TeacherPredictions:
    """Log-odds [P, C] as choices of two classes by each label, [P · C, 2]."""
    log_probs = tuple(two_classes(row).flatten(0, 1) for row in rows)
    chosen = None if labels is None else (labels.flatten() > 0.5).long()
    return TeacherPredictions(log_probs, samples.repeat_interleave(rows[0].shape[1]), chosen)


def _count_labelled(task: Task, labels: Tensor | None) -> int:
    """Samples with a label."""
    return 0 if labels is None else int(task.known(labels).reshape(len(labels), -1).any(-1).sum())


def _labels(task: Task, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Labels [B] or [B, T], below 0 where unknown; the next tokens of a causal language model."""
    if task.shift:
        tokens, mask = batch.get("input_ids"), batch.get("attention_mask")
        if tokens is None:
            return None
        return tokens if mask is None else torch.where(mask.bool(), tokens, IGNORED)
    # Labels of frames do not say which frame has which.
    return None if task.answers == "frames" else batch.get("labels")

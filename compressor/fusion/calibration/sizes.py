"""Sizes of calibration data in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from compressor.anatomy import Anatomy, Kind
from compressor.anatomy.hooks import Tap, logits_of
from compressor.fusion.calibration.batches import Batch, CalibrationSet, take_samples
from compressor.fusion.calibration.capture import capture_taps, ending_early
from compressor.fusion.teacher import FusionTeacher
from compressor.models.inputs import without_labels

#: Tokens of a refit, at least, and per input of the widest module: more change its held-out errors little.
REFIT_TOKENS, TOKENS_PER_FITTED_INPUT = 32768, 48
#: Samples per input of a head that reads one token of each.
SAMPLES_PER_POOLED_INPUT = 4


@torch.no_grad()
def stream_tokens(teacher: FusionTeacher, batches: Sequence[Batch]) -> float:
    """Mean number of real tokens per sample in the first residual stream.

    One sample runs up to the first layer: only the model knows how many patches an image has.
    """
    masks = [batch["attention_mask"] for batch in batches if batch.get("attention_mask") is not None]
    if masks and all(mask.dim() == 2 for mask in masks):
        return max(1.0, sum(int(mask.sum()) for mask in masks) / sum(map(len, masks)))
    inputs = {name: value[:1] for name, value in without_labels(batches[0]).items()}
    tap: Tap = (teacher.anatomy.stacks[0].layers[0], "in")
    with capture_taps(teacher.model, [tap], stop=True) as captured, ending_early():
        logits_of(teacher.model, inputs)
    hidden = captured[tap]
    return max(1.0, math.prod(hidden.shape[:-1]))


def samples_of_tokens(tokens: int, per_sample: float, least: int, most: int) -> int:
    """Samples of about so many tokens, within bounds."""
    return max(least, min(most, math.ceil(tokens / per_sample)))


def widest_input(student: Anatomy) -> int:
    """Inputs of the widest module that a refit fits."""
    return max(space.size for space in student.spaces.values() if space.kind is not Kind.EMBEDDING)


@torch.no_grad()
def enough_samples(
    teacher: FusionTeacher, student: Anatomy, calibration: CalibrationSet, share: float = 1.0
) -> CalibrationSet:
    """As many of the samples as a refit needs, or a share of these; as large a part is held out."""
    samples = calibration.all
    count = sum(len(next(iter(batch.values()))) for batch in samples)
    tokens = round(share * max(REFIT_TOKENS, TOKENS_PER_FITTED_INPUT * widest_input(student)))
    wanted = samples_of_tokens(tokens, stream_tokens(teacher, samples), 1, count)
    first = {name: value[:1] for name, value in without_labels(samples[0]).items()}
    if logits_of(teacher.model, first).dim() == 2:
        wanted = max(wanted, round(share * SAMPLES_PER_POOLED_INPUT * student.residual.size))
    if wanted >= count:
        return calibration
    kept = wanted / count
    parts = (calibration.train, calibration.held_out)
    sizes = [sum(len(next(iter(batch.values()))) for batch in part) for part in parts]
    return CalibrationSet(
        *(take_samples(part, math.ceil(kept * size)) if size else () for part, size in zip(parts, sizes, strict=True))
    )

"""Calibration samples that say little about the teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.anatomy import inspect_config
from compressor.anatomy.hooks import logits_of
from compressor.models.inputs import count_tokens, without_labels
from compressor.models.teacher import Teacher
from compressor.pipeline.data_splits import RunData
from compressor.report import findings

#: Unlabelled samples whose classes a teacher is asked for.
_ASKED_SAMPLES = 64


def check_calibration(data: RunData, teachers: Sequence[Teacher]) -> list[str]:
    """A warning per way in which calibration samples are too few or too alike."""
    return [*scarcity(data.calibration, [teacher.config for teacher in teachers]), *_few_classes(data, teachers[0])]


def scarcity(calibration: Sequence[Mapping[str, Tensor]], configs: Sequence[PretrainedConfig]) -> list[str]:
    """A warning of too few calibration samples for the teachers' width."""
    samples = sum(len(next(iter(batch.values()))) for batch in calibration)
    tokens = sum(count_tokens(batch, configs[0]) for batch in calibration)
    width = max(inspect_config(config).residual.size for config in configs)
    # Frames of sounds are not counted.
    if not tokens or tokens >= findings.ENOUGH_TOKENS * width:
        return []
    return [
        f"few calibration samples: {samples} of them have {tokens} tokens, and the fits of a residual stream {width} "
        f"wide want {findings.ENOUGH_TOKENS * width} or more; expect less of this student than of one with more "
        "samples (--samples)"
    ]


def _few_classes(data: RunData, teacher: Teacher) -> list[str]:
    """A warning of classifiers' samples that are all of one class, by their labels or else by a teacher."""
    task = teacher.spec.task
    if not (task.one_class and task.named and data.calibration):
        return []
    classes, by = data.calibration_classes, "are"
    if classes is None:
        classes, by = _predicted_classes(data.calibration, teacher), f"look to {teacher.name} like"
    if len(classes) >= findings.FEW_CLASSES:
        return []
    label = teacher.spec.labels.get(min(classes), min(classes)) if classes else "none"
    return [
        f"the calibration samples {by} one class ({label}): the student is fitted to that class alone; give samples of "
        "all classes (--data, --train-split)"
    ]


@torch.inference_mode()
def _predicted_classes(calibration: Sequence[Mapping[str, Tensor]], teacher: Teacher) -> frozenset[int]:
    size = len(next(iter(calibration[0].values())))
    batches = islice(calibration, -(-_ASKED_SAMPLES // size))
    answers = [logits_of(teacher.model, without_labels(batch)).argmax(-1) for batch in batches]
    return frozenset(torch.cat(answers).tolist())

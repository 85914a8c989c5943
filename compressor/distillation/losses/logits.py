"""The ensemble's distribution: KL with temperature (Hinton et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from compressor.distillation.losses.base import LOSSES, Seen, Setting, positions
from compressor.errors import UserError


def ensemble_log_probs(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0) -> Tensor:
    """Log of the weighted mean of softmax(logits / temperature), [..., classes].

    Args:
        logits: one tensor [..., classes] per teacher.
        weights: one non-negative weight per teacher; they are normalised, and a teacher of weight 0 is left out.

    Raises:
        UserError: not one weight per teacher, a negative one, or all zero.
    """
    check_weights(len(logits), weights)
    total = sum(weights)
    terms = [
        (one / temperature).log_softmax(-1) + math.log(weight / total)
        for one, weight in zip(logits, weights, strict=True)
        if weight > 0
    ]
    return reduce(torch.logaddexp, terms)


def ensemble_kl(
    student_logits: Tensor, teacher_logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0
) -> Tensor:
    """temperature² · KL(mean of the teachers' softmax ‖ the student's softmax), both at `temperature`.

    The square keeps the size of the gradient independent of the temperature.

    Args:
        student_logits: [..., classes]; all but the last dimension are samples.
        teacher_logits: the same shape, one per teacher.
        weights: see `ensemble_log_probs`.

    Returns:
        The mean over the samples in nats, a scalar.
    """
    target = ensemble_log_probs(teacher_logits, weights, temperature).flatten(0, -2)
    student = (student_logits / temperature).log_softmax(-1).flatten(0, -2)
    return temperature**2 * functional.kl_div(student, target, reduction="batchmean", log_target=True)


def check_weights(teachers: int, weights: Sequence[float]) -> None:
    """Raise a `UserError` unless there is one non-negative weight per teacher and not all are zero."""
    if len(weights) != teachers or any(weight < 0 for weight in weights) or sum(weights) <= 0:
        raise UserError(f"{teachers} teachers need {teachers} weights, none negative, not all zero: {list(weights)}")


@LOSSES.register("logits")
class LogitsLoss:
    """temperature² · KL(mean of the teachers' softmax ‖ the student's), over all answers that count, in nats."""

    modules: Sequence[str] = ()
    teachers_modules: Sequence[Sequence[str]] = ()

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        return positions(self._setting.task, inputs)

    def mean(self, seen: Seen) -> Tensor:
        counted = self._setting.task.counted(seen.logits, seen.inputs)
        return ensemble_kl(counted, seen.opinions, self._setting.weights, self._setting.temperature)

"""The ensemble's distribution: KL with temperature (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from compressor.distillation.losses.base import LOSSES, LossContext, LossInputs, counted_positions
from compressor.ensemble import mix_predictions


def ensemble_log_probs(logits: Sequence[Tensor], weights: Sequence[float], temperature: float = 1.0) -> Tensor:
    """Log of the weighted mean of softmax(logits / temperature), [..., classes].

    Args:
        logits: one tensor [..., classes] per teacher.
        weights: one non-negative weight per teacher, as in `mix_predictions`.
    """
    return mix_predictions([(one / temperature).log_softmax(-1) for one in logits], weights)


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


@LOSSES.register("logits")
class LogitsLoss:
    """temperature² · KL(mean of the teachers' softmax ‖ the student's), over all answers that count, in nats."""

    modules: Sequence[str] = ()
    teachers_modules: Sequence[Sequence[str]] = ()

    def __init__(self, setting: LossContext) -> None:
        self._setting = setting

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        return counted_positions(self._setting.task, inputs)

    def mean(self, seen: LossInputs) -> Tensor:
        counted = self._setting.task.counted(seen.logits, seen.inputs)
        return ensemble_kl(counted, seen.opinions, self._setting.weights, self._setting.temperature)

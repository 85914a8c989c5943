"""The loss `labels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from compressor.distillation.losses.loss import LOSSES, LossContext, LossInputs
from compressor.ensemble.answers import ANSWERS


def label_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., classes] with labels [...]; negative: unknown."""
    known = (labels >= 0).flatten()
    losses = functional.cross_entropy(student_logits.flatten(0, -2), labels.flatten().clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


@LOSSES.register("labels")
class LabelLoss:
    """Cross-entropy with known labels, in nats; of values half the squared error."""

    modules: Sequence[str] = ()
    teacher_modules: Sequence[Sequence[str]] = ()

    def __init__(self, context: LossContext) -> None:
        self._task = context.task

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        if labels is None:
            return 0
        return int(self._task.known(labels[:, 1:] if self._task.shift and labels.dim() > 1 else labels).sum())

    def mean(self, batch: LossInputs) -> Tensor:
        assert batch.labels is not None
        if self._task.answers == "classes":
            return label_loss(*self._task.answered(batch.logits, batch.labels))
        return ANSWERS[self._task.answers].label_loss(self._task, batch.logits, batch.labels, batch.inputs)

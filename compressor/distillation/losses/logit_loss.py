"""The loss `logits`.

Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from compressor.distillation.losses.loss import LOSSES, LossContext, LossInputs, counted_positions
from compressor.ensemble.answers import ANSWERS, distillation_loss


@LOSSES.register("logits")
class LogitsLoss:
    """`answers.distillation_loss` over all predictions that count, in nats."""

    modules: Sequence[str] = ()
    teacher_modules: Sequence[Sequence[str]] = ()

    def __init__(self, context: LossContext) -> None:
        self._context = context

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        return counted_positions(self._context.task, inputs)

    def mean(self, batch: LossInputs) -> Tensor:
        counted = self._context.task.counted(batch.logits, batch.inputs)
        context = self._context
        answers = ANSWERS[context.task.answers]
        return distillation_loss(
            answers, counted, batch.teacher_logits, context.weights, context.temperature, context.mixing
        )

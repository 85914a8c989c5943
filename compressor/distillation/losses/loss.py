"""The interface of losses, and `LOSSES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from compressor.layer_maps import AttentionPair, LayerMap
from compressor.models.tasks.task import Task
from compressor.utils.registry import Registry

#: {module path: its outputs, one per call}.
CapturedOutputs = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class LossContext:
    """Arguments of every loss; places to compare are () if unknown; `mixing`: of `ensemble.mix_predictions`."""

    task: Task
    weights: Sequence[float]
    temperature: float
    layer_maps: Sequence[LayerMap] = ()
    attention_pairs: Sequence[AttentionPair] = ()
    mixing: float = 1.0


@dataclass(frozen=True)
class LossInputs:
    """One batch, and the models' outputs.

    Attributes:
        labels: [B] or [B, T].
        teacher_logits: those that count, [P, C] each.
        student_outputs, teacher_outputs: of the losses' `modules`.
    """

    inputs: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor | None = None
    teacher_logits: Sequence[Tensor] = ()
    student_outputs: CapturedOutputs = field(default_factory=dict)
    teacher_outputs: Sequence[CapturedOutputs] = ()


class Loss(Protocol):
    """One term of the objective; needs outputs of `modules` and `teacher_modules`."""

    modules: Sequence[str]
    teacher_modules: Sequence[Sequence[str]]

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        """Weight of a batch in the mean."""
        ...

    def mean(self, batch: LossInputs) -> Tensor:
        """A scalar; 0 if nothing counts."""
        ...


LOSSES: Registry[Callable[[LossContext], Loss]] = Registry("loss")


def counted_positions(task: Task, inputs: Mapping[str, Tensor]) -> int:
    """Number of predictions that count."""
    positions = task.positions(inputs)
    return int(positions.sum()) if positions is not None else len(next(iter(inputs.values())))


def token_mask(inputs: Mapping[str, Tensor], tokens: Tensor, *, decoder: bool) -> Tensor:
    """Mask [B, T] of `tokens` [B, T, n] without padding; all count if the inputs' mask has another shape (images)."""
    mask = inputs.get("decoder_attention_mask" if decoder and "decoder_input_ids" in inputs else "attention_mask")
    if mask is not None and mask.dim() > 2:
        mask = mask.flatten(0, 1)
    if mask is None or mask.shape != tokens.shape[:2]:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return mask.to(tokens.device).bool()

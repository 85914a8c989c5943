"""The interface of a loss, the registry `LOSSES`, and masks that losses share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from compressor.layer_maps import AttentionPair, LayerMap
from compressor.models.tasks import Task
from compressor.utils.registry import Registry

#: {module path: its outputs, one per call}.
CapturedOutputs = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class LossContext:
    """Arguments of every loss.

    Attributes:
        task: decides which positions count.
        weights: one per teacher.
        temperature: of the distillation.
        layer_maps: residual streams that correspond; () if unknown.
        attention_pairs: attentions that correspond; () if unknown.
    """

    task: Task
    weights: Sequence[float]
    temperature: float
    layer_maps: Sequence[LayerMap] = ()
    attention_pairs: Sequence[AttentionPair] = ()


@dataclass(frozen=True)
class LossInputs:
    """One batch, and the models' outputs on it.

    Attributes:
        inputs: of the models, [B, ...].
        logits: the student's.
        labels: [B] or [B, T]; None without labels.
        teacher_logits: of each teacher the logits that count, [P, C].
        student_outputs: of the student's `modules`.
        teacher_outputs: of each teacher's.
    """

    inputs: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor | None = None
    teacher_logits: Sequence[Tensor] = ()
    student_outputs: CapturedOutputs = field(default_factory=dict)
    teacher_outputs: Sequence[CapturedOutputs] = ()


class Loss(Protocol):
    """One term of the training objective.

    Attributes:
        modules: paths of the student's modules whose outputs the loss reads.
        teacher_modules: the same of each teacher; () for none.
    """

    modules: Sequence[str]
    teacher_modules: Sequence[Sequence[str]]

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        """The weight of a batch in a mean over several batches."""
        ...

    def mean(self, batch: LossInputs) -> Tensor:
        """The loss of a batch, a scalar; 0 if no position counts."""
        ...


LOSSES: Registry[Callable[[LossContext], Loss]] = Registry("loss")


def counted_positions(task: Task, inputs: Mapping[str, Tensor]) -> int:
    """Number of predictions of a batch that count."""
    mask = None if task.mask is None else inputs.get(task.mask)
    return int(mask.sum()) if mask is not None else len(next(iter(inputs.values())))


def token_mask(inputs: Mapping[str, Tensor], tokens: Tensor, *, decoder: bool) -> Tensor:
    """Mask of the tokens that are not padding, [B, T] bool.

    Args:
        inputs: of the model.
        tokens: [B, T, n]; all count where the mask has another shape (patches of an image).
        decoder: whether they are tokens of an encoder–decoder's decoder.
    """
    mask = inputs.get("decoder_attention_mask" if decoder and "decoder_input_ids" in inputs else "attention_mask")
    if mask is None or mask.shape != tokens.shape[:2]:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return mask.to(tokens.device).bool()

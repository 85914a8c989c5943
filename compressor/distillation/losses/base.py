"""What a loss is: a name, what it must see of the models, and a mean over what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from compressor.layer_maps import AttentionPair, LayerMap
from compressor.models.tasks import Task
from compressor.utils.registry import Registry

#: What the watched modules put out, call by call.
CapturedOutputs = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class LossContext:
    """What losses are made from.

    Attributes:
        task: says which positions count.
        weights: of the teachers, in their order.
        temperature: of the distillation.
        passages, relations: where student and teachers are comparable; () where that is not known.
    """

    task: Task
    weights: Sequence[float]
    temperature: float
    passages: Sequence[LayerMap] = ()
    relations: Sequence[AttentionPair] = ()


@dataclass(frozen=True)
class LossInputs:
    """What one batch showed.

    Attributes:
        inputs: of the models, [B, ...].
        logits: the student's.
        labels: [B] or [B, T]; None unless they are asked for.
        opinions: of each teacher the logits that count, [P, C].
        watched: what the student's modules put out.
        teachers_watched: what each teacher's did.
    """

    inputs: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor | None = None
    opinions: Sequence[Tensor] = ()
    watched: CapturedOutputs = field(default_factory=dict)
    teachers_watched: Sequence[CapturedOutputs] = ()


class Loss(Protocol):
    """One part of what a student is trained for.

    Attributes:
        modules: paths of the student's modules whose outputs it needs.
        teachers_modules: of each teacher's.
    """

    modules: Sequence[str]
    teachers_modules: Sequence[Sequence[str]]

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        """How much a batch weighs beside others: a mean over several batches is that of their means, so weighted."""
        ...

    def mean(self, seen: LossInputs) -> Tensor:
        """The loss of a batch, a scalar; 0 if there is nothing to look at."""
        ...


LOSSES: Registry[Callable[[LossContext], Loss]] = Registry("loss")


def counted_positions(task: Task, inputs: Mapping[str, Tensor]) -> int:
    """How many answers of a batch count."""
    mask = None if task.mask is None else inputs.get(task.mask)
    return int(mask.sum()) if mask is not None else len(next(iter(inputs.values())))


def token_mask(inputs: Mapping[str, Tensor], tokens: Tensor, *, decoder: bool) -> Tensor:
    """Which tokens are no padding, [B, T] bool.

    Args:
        inputs: of the model.
        tokens: [B, T, n]; where they are not the tokens of a mask (patches of an image), all count.
        decoder: whether they are those of an encoder–decoder's decoder.
    """
    mask = inputs.get("decoder_attention_mask" if decoder and "decoder_input_ids" in inputs else "attention_mask")
    if mask is None or mask.shape != tokens.shape[:2]:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return mask.to(tokens.device).bool()

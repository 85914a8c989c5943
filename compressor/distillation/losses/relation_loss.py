"""The loss `relations`.

Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation", https://arxiv.org/abs/2012.15828.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.distillation.losses.loss import LOSSES, LossContext, LossInputs, token_mask
from compressor.errors import UserError
from compressor.layer_maps import AttentionEnd, AttentionPair


def relation_log_probs(values: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Log-softmax of scaled products of all pairs of tokens, [B, T, n] to [B, heads, T, T]; mask [B, T]."""
    batch, tokens, width = values.shape
    parts = values.float().reshape(batch, tokens, heads, width // heads).transpose(1, 2)
    products = parts @ parts.transpose(-1, -2) / math.sqrt(width // heads)
    return products.masked_fill(~mask[:, None, None, :], torch.finfo(products.dtype).min).log_softmax(-1)


def relation_loss(
    student: Tensor, teachers: Sequence[Tensor], weights: Sequence[float], mask: Tensor, heads: int
) -> Tensor:
    """KL(weighted mean of teachers' relations ‖ student's) in nats, mean over samples, heads and tokens.

    Args:
        student: [B, T, n].
        teachers: [B, T, n_k] each, with positive weights.
        mask: tokens that count, [B, T].
    """
    total = sum(weights)
    target = torch.stack(
        [
            relation_log_probs(teacher, heads, mask) + math.log(weight / total)
            for teacher, weight in zip(teachers, weights, strict=True)
        ]
    ).logsumexp(0)
    relations = relation_log_probs(student, heads, mask)
    divergence = (target.exp() * (target - relations)).sum(-1).mean(1)
    return ((divergence * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


@LOSSES.register("relations")
class RelationLoss:
    """`relation_loss` of the last layers, mean over queries, keys and values.

    Channels are split into the greatest common divisor of the numbers of heads.

    Raises:
        UserError: no attention can be captured.
    """

    modules: Sequence[str]
    teacher_modules: Sequence[Sequence[str]]

    def __init__(self, context: LossContext) -> None:
        if not context.attention_pairs:
            raise UserError("finetune.losses: relations needs an attention that is seen in all models: leave it out")
        self._pairs = context.attention_pairs
        self._weights = context.weights
        self.modules = [pair.student.module for pair in self._pairs]
        self.teacher_modules = [[pair.teachers[k].module for pair in self._pairs] for k in range(len(context.weights))]

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        return len(next(iter(inputs.values())))

    def mean(self, batch: LossInputs) -> Tensor:
        return torch.stack([self._pair_loss(pair, batch) for pair in self._pairs]).mean()

    def _pair_loss(self, pair: AttentionPair, batch: LossInputs) -> Tensor:
        samples = len(next(iter(batch.inputs.values())))
        student = _head_values(batch.student_outputs, pair.student, samples)
        teachers = [
            _head_values(outputs, end, samples)
            for outputs, end in zip(batch.teacher_outputs, pair.teachers, strict=True)
        ]
        heads = math.gcd(pair.student.heads, *(end.heads for end in pair.teachers))
        mask = token_mask(batch.inputs, student, decoder=pair.decoder)
        return relation_loss(student, teachers, self._weights, mask, heads)


def _head_values(outputs: Mapping[str, Sequence[Tensor]], end: AttentionEnd, samples: int) -> Tensor:
    """Queries, keys or values [B, T, n], of the first call."""
    output = outputs[end.module][0]
    columns = torch.tensor(end.columns).to(output.device)
    return output.reshape(samples, -1, output.shape[-1]).index_select(-1, columns)

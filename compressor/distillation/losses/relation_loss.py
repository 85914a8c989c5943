"""Attention relations: which tokens queries, keys and values hold to be alike (Wang et al. 2021, MiniLMv2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.distillation.losses.base import LOSSES, LossContext, LossInputs, token_mask
from compressor.errors import UserError
from compressor.layer_maps import AttentionEnd, AttentionPair


def relation_log_probs(values: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Log-softmax over tokens of the scaled products of all pairs of tokens, [B, heads, T, T].

    Args:
        values: queries, keys or values of all heads side by side, [B, T, n].
        heads: into how many parts the n channels are split, however many heads the attention has.
        mask: which tokens count, [B, T].
    """
    batch, tokens, width = values.shape
    parts = values.float().reshape(batch, tokens, heads, width // heads).transpose(1, 2)
    products = parts @ parts.transpose(-1, -2) / math.sqrt(width // heads)
    return products.masked_fill(~mask[:, None, None, :], torch.finfo(products.dtype).min).log_softmax(-1)


def relation_loss(
    student: Tensor, teachers: Sequence[Tensor], weights: Sequence[float], mask: Tensor, heads: int
) -> Tensor:
    """KL(weighted mean of the teachers' relations ‖ the student's) in nats, mean over samples, heads and tokens.

    Args:
        student: [B, T, n].
        teachers: [B, T, n_k] each; widths may differ, as relations have none.
        weights: of the teachers, all above zero.
        mask: which tokens count, [B, T].
        heads: see `relation_log_probs`.
    """
    total = sum(weights)
    target = torch.stack(
        [relation_log_probs(one, heads, mask) + math.log(a / total) for one, a in zip(teachers, weights, strict=True)]
    ).logsumexp(0)
    own = relation_log_probs(student, heads, mask)
    each = (target.exp() * (target - own)).sum(-1).mean(1)
    return ((each * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


@LOSSES.register("relations")
class RelationLoss:
    """KL between attention relations of the last layers: of queries, of keys, of values, and their mean.

    Channels are split into as many parts as the models' numbers of heads have in common, so the models may have
    different numbers of heads.

    Raises:
        UserError: there is no attention whose queries, keys and values could be seen.
    """

    modules: Sequence[str]
    teachers_modules: Sequence[Sequence[str]]

    def __init__(self, setting: LossContext) -> None:
        if not setting.relations:
            raise UserError("finetune.losses: relations needs an attention that is seen in all models: leave it out")
        self._relations = setting.relations
        self._weights = setting.weights
        self.modules = [relation.student.module for relation in self._relations]
        self.teachers_modules = [
            [relation.teachers[k].module for relation in self._relations] for k in range(len(setting.weights))
        ]

    def count(self, inputs: Mapping[str, Tensor], labels: Tensor | None) -> int:
        return len(next(iter(inputs.values())))

    def mean(self, seen: LossInputs) -> Tensor:
        return torch.stack([self._of(relation, seen) for relation in self._relations]).mean()

    def _of(self, relation: AttentionPair, seen: LossInputs) -> Tensor:
        batch = len(next(iter(seen.inputs.values())))
        own = _values(seen.watched, relation.student, batch)
        theirs = [
            _values(watched, end, batch) for watched, end in zip(seen.teachers_watched, relation.teachers, strict=True)
        ]
        heads = math.gcd(relation.student.heads, *(end.heads for end in relation.teachers))
        mask = token_mask(seen.inputs, own, decoder=relation.decoder)
        return relation_loss(own, theirs, self._weights, mask, heads)


def _values(watched: Mapping[str, Sequence[Tensor]], end: AttentionEnd, batch: int) -> Tensor:
    """Queries, keys or values of all heads side by side [B, T, n], of the first call of their module."""
    found = watched[end.module][0]
    columns = torch.tensor(end.columns, device=found.device)
    return found.reshape(batch, -1, found.shape[-1]).index_select(-1, columns)

"""Judge a student by all held-out samples, and by the part of them that it serves worst.

A mean over all samples can be good although what one teacher knows was lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import ANSWERS, Answers, ClassAnswers
from compressor.ensemble.probabilities import sums_per_sample
from compressor.ensemble.stacking import DISAGREEMENT, disagreement
from compressor.fusion.calibration.batches import Batch
from compressor.models.inputs import without_labels
from compressor.models.tasks.table import task_of_model

#: A part of fewer samples says little.
LEAST_PART = 8


@dataclass(frozen=True, eq=False)
class ServedParts:
    """Held-out samples, what the ensemble predicts for them, and whose they are.

    Attributes:
        targets: the ensemble's answers per batch, rows of `compressor.ensemble.answers`.
        parts: per sample of all batches, the teacher that knows it best [S].
        judged: parts that are judged on their own; none where teachers agree, or answer by no single class.
    """

    batches: Sequence[Batch]
    targets: Sequence[Tensor]
    parts: Tensor
    judged: tuple[int, ...]
    answers: Answers = ANSWERS["classes"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        models: Sequence[nn.Module],
        weights: Sequence[float],
        batches: Sequence[Batch],
        mixing: float,
        *,
        answers: Answers = ANSWERS["classes"],
        next_tokens: bool = False,
        most_logits: float = math.inf,
    ) -> ServedParts:
        """The first batches, of about `most_logits` logits.

        Args:
            answers: what the models' outputs mean.
            next_tokens: models predict the next of `input_ids`, so samples belong to whom they are likeliest; else to
                the surest.
        """
        weighty = [k for k, weight in enumerate(weights) if weight > 0]
        targets: list[Tensor] = []
        owners: list[Tensor] = []
        distances: list[float] = []
        for batch in batches:
            if sum(target.numel() for target in targets) >= most_logits:
                break
            inputs = without_labels(batch)
            rows = [answers.rows(logits_of(models[k], inputs).double()) for k in weighty]
            shares = [weights[k] for k in weighty]
            targets.append(answers.mix(rows, shares, mixing))
            if not isinstance(answers, ClassAnswers):
                continue
            # The divergence from a mean of probabilities is no measure: a vague teacher is the nearest to it.
            doubts = [_nll(row, inputs) if next_tokens else _entropy(row) for row in rows]
            counted = task_of_model(models[0]).positions(inputs, doubts[0].shape[-1])
            unsure = torch.stack([sums_per_sample(doubt, counted)[0] for doubt in doubts])
            owners.append(torch.tensor(weighty)[unsure.argmin(0).cpu()])
            distances.append(disagreement([row.flatten(0, -2) for row in rows], shares) * len(owners[-1]))
        parts = torch.cat(owners) if owners else torch.zeros(0, dtype=torch.long)
        counts = {k: int((parts == k).sum()) for k in weighty}
        apart = sum(distances) >= DISAGREEMENT * len(parts)
        large = tuple(k for k, count in counts.items() if count >= LEAST_PART)
        judged = large if apart and len(large) > 1 else ()
        return cls(batches[: len(targets)], targets, parts, judged, answers)

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """KL(ensemble || model) in nats: the mean, averaged with that of the worst part; infinite for NaN."""
        sums, counts = [], []
        for batch, target in zip(self.batches, self.targets, strict=True):
            inputs = without_labels(batch)
            divergence = self.answers.divergence(target, self.answers.rows(logits_of(model, inputs).double()))
            kl, tokens = sums_per_sample(divergence, task_of_model(model).positions(inputs, divergence.shape[-1]))
            sums.append(kl.cpu())
            counts.append(tokens.cpu())
        kl, tokens = torch.cat(sums), torch.cat(counts)
        mean = _mean(kl, tokens)
        worst = max((_mean(kl[self.parts == k], tokens[self.parts == k]) for k in self.judged), default=mean)
        score = (mean + worst) / 2
        return score if score == score else math.inf


def _mean(kl: Tensor, tokens: Tensor) -> float:
    return float(kl.sum()) / max(int(tokens.sum()), 1)


def _nll(log_probs: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Negative log-likelihood of each next token [B, T]; nothing for the last."""
    ids = inputs["input_ids"]
    # Places of images come before the text's.
    following = -log_probs[:, -ids.shape[1] :][:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    mask = inputs.get("attention_mask")
    if mask is not None:
        following = following.where(mask[:, 1:].bool(), 0.0)
    return functional.pad(following, (0, 1))


def _entropy(log_probs: Tensor) -> Tensor:
    return -torch.where(log_probs.isneginf(), 0.0, log_probs.exp() * log_probs).sum(-1)

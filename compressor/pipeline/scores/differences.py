"""How students differ from the ensemble: scores by group, agreement, and the samples furthest apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.bench.answer_tallies import MAX_EXPONENT
from compressor.models.tasks.task import IGNORED, Task

#: Number of samples that are shown.
SHOWN_SAMPLES = 6
#: Groups of lengths and positions end at powers of two, the first at this one.
_FIRST_EDGE = 8
_EDGES = torch.tensor([_FIRST_EDGE << power for power in range(20)])


@dataclass(frozen=True)
class Disagreement:
    """A sample for which ensemble and student answer differently.

    Attributes:
        index: of the sample.
        position: of the token in question; None with one answer a sample.
        kl: KL(ensemble ‖ student) of this answer, in nats.
        inputs: of this sample, without a batch dimension.
        label: None if unknown.
        ensemble, student: (class, probability).
    """

    index: int
    position: int | None
    kl: float
    inputs: Mapping[str, Tensor]
    label: int | None
    ensemble: tuple[int, float]
    student: tuple[int, float]


class Breakdown:
    """Sums over one model's answers: by group, and those that are also the ensemble's.

    Args:
        keep: number of samples to keep that are furthest from the ensemble.
        domains: names of domains, and the number of each sample's, int64 [N].
    """

    def __init__(self, task: Task, keep: int = 0, domains: tuple[Sequence[str], Tensor] | None = None) -> None:
        self.task, self.keep = task, keep
        self.domain_names: Sequence[str] = domains[0] if domains else ()
        self._domains = domains[1] if domains else None
        self.labelled = True
        self.samples = self.agreeing = self.positions = 0
        self.furthest: list[Disagreement] = []
        #: {kind of group: [groups, 2]: answers, and sum of their scores}.
        self._sums: dict[str, Tensor] = {}

    @property
    def possible(self) -> bool:
        """Whether an answer is one class of several that have names, which `add` needs."""
        return self.task.answers == "classes" and self.task.named and self.task.logit_dims < 4

    def add(self, log_probs: Tensor, inputs: Mapping[str, Tensor], labels: Tensor | None, reference: Tensor) -> None:
        """Add a batch: log-probabilities of model and ensemble [B, C] or [B, T, C], labels [B] or [B, T]."""
        agrees = log_probs.argmax(-1) == reference.argmax(-1)
        counted = self.task.counted(agrees[..., None], inputs)
        self.agreeing, self.positions = self.agreeing + int(counted.sum()), self.positions + counted.numel()
        if self.keep:
            further = _furthest(self, log_probs, inputs, labels, reference)
            self.furthest = sorted([*self.furthest, *further], key=lambda sample: -sample.kl)[: self.keep]
        self.samples += len(log_probs)
        if labels is None:
            self.labelled, labels = False, _answers(self.task, reference, inputs)
        rows, expected = self.task.answered(log_probs, labels.cpu())
        if self.task.metrics and self.task.metrics[0] == "perplexity":
            scores = -rows.gather(-1, expected[:, None])[:, 0].double()
        else:
            scores = (rows.argmax(-1) == expected).double()
        groups = _groups(self.task, inputs, labels.cpu())
        if self._domains is not None:
            groups["domain"] = _spread(self._domains[self.samples - len(log_probs) : self.samples], labels)
        for kind, ids in groups.items():
            self._add_scores(kind, self.task.answered(ids[..., None], labels.cpu())[0][:, 0], scores)

    def _add_scores(self, kind: str, ids: Tensor, scores: Tensor) -> None:
        former = self._sums.get(kind, torch.zeros(0, 2, dtype=torch.float64))
        counts = ids.bincount(minlength=len(former)).double()
        sums = torch.stack([counts, ids.bincount(scores, minlength=len(former))], dim=1)
        sums[: len(former)] += former
        self._sums[kind] = sums

    def scores(self, kind: str) -> list[float | None]:
        """The score of each group; None without answers."""
        return [self._score(total / count) if count else None for count, total in self._sums[kind].tolist()]

    def counts(self) -> dict[str, list[int]]:
        """{kind: answers in each group}."""
        return {kind: [int(count) for count in sums[:, 0].tolist()] for kind, sums in self._sums.items()}

    def _score(self, mean: float) -> float:
        return math.exp(min(mean, MAX_EXPONENT)) if self.task.metrics[0] == "perplexity" else mean

    @property
    def agreement(self) -> float:
        """Share of answers that are also the ensemble's."""
        return self.agreeing / max(self.positions, 1)


def differences_report(
    models: Mapping[str, Breakdown], class_names: Mapping[int, str], samples: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The entry `differences` of report.json; scores are in the order of the models.

    Args:
        models: teachers, ensemble, students, after the same batches.
        samples: as in `compressor.pipeline.scores.shown_samples`.
    """
    first = next(iter(models.values()))
    metric = first.task.metrics[0] if first.labelled else "agreement"
    groups = []
    for kind, counts in first.counts().items():
        scores = [model.scores(kind) for model in models.values()]
        rows = [
            {
                "name": _group_name(kind, index, class_names, first.domain_names),
                "count": count,
                "scores": [row[index] for row in scores],
            }
            for index, count in enumerate(counts)
            if count
        ]
        groups.append({"by": kind, "rows": rows})
    return {
        "models": list(models),
        "metric": metric,
        "agreement": [model.agreement for model in models.values()],
        "groups": groups,
        "samples": list(samples),
    }


def _answers(task: Task, reference: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """The ensemble's answers as labels."""
    answers = reference.argmax(-1)
    mask = inputs.get(task.mask or "")
    return answers if mask is None else torch.where(mask.bool().cpu(), answers, IGNORED)


def _groups(task: Task, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """{kind: group of each label}."""
    groups = {"class": labels} if task.columns else {}
    if task.packed:
        groups["position"] = torch.bucketize(torch.arange(1, labels.shape[1] + 1), _EDGES).expand_as(labels)
    elif "input_ids" in inputs and "attention_mask" in inputs:
        lengths = torch.bucketize(inputs["attention_mask"].sum(1).cpu(), _EDGES)
        groups["length"] = _spread(lengths, labels)
    return groups


def _spread(groups: Tensor, labels: Tensor) -> Tensor:
    """Groups of samples [B] as those of their labels, [B] or [B, T]."""
    return groups.view(-1, *[1] * (labels.dim() - 1)).expand_as(labels)


def _group_name(kind: str, index: int, class_names: Mapping[int, str], domains: Sequence[str]) -> str:
    if kind == "class":
        return class_names.get(index, str(index))
    if kind == "domain":
        return domains[index]
    last = _FIRST_EDGE << index
    return f"{last // 2 + 1 if index else 1} to {last}"


def _furthest(
    model: Breakdown, log_probs: Tensor, inputs: Mapping[str, Tensor], labels: Tensor | None, reference: Tensor
) -> list[Disagreement]:
    """The samples of a batch that answer differently, by KL."""
    terms = torch.where(reference.isneginf(), 0.0, reference.exp() * (reference - log_probs))
    kl = torch.where(log_probs.argmax(-1) == reference.argmax(-1), 0.0, terms.sum(-1))
    mask = inputs.get(model.task.mask or "")
    if kl.dim() > 1 and mask is not None:
        kl = torch.where(mask.bool().cpu(), kl, 0.0)
    best, positions = (kl, None) if kl.dim() == 1 else kl.max(1)
    found = []
    for row in best.argsort(descending=True)[: model.keep].tolist():
        if best[row] <= 0:
            break
        position = None if positions is None else int(positions[row])
        place = (row,) if position is None else (row, position)
        found.append(
            Disagreement(
                model.samples + row, position, float(best[row]),
                {name: value[row].clone() for name, value in inputs.items() if len(value) == len(log_probs)},
                _label(model.task, labels, row, position), _top(reference[place]), _top(log_probs[place]),
            )
        )  # fmt: skip
    return found


def _label(task: Task, labels: Tensor | None, row: int, position: int | None) -> int | None:
    if labels is None:
        return None
    if position is None:
        label = int(labels[row])
    else:
        place = position + task.shift
        label = int(labels[row, place]) if place < labels.shape[1] else IGNORED
    return None if label < 0 else label


def _top(log_probs: Tensor) -> tuple[int, float]:
    value, index = log_probs.max(-1)
    return int(index), math.exp(float(value))

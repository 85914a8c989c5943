"""The automatic choice: small pilots of every candidate, judged on held-out calibration samples.

A candidate is a residual map and the teachers whose coordinates it is made from.  All candidates share one walk of the
teachers over a few samples; the student whose logits are closest to the ensemble's on samples that no pilot has seen
is then built on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy.trace import logits_of
from compressor.fusion.lockstep import build
from compressor.fusion.residual import RESIDUAL_MAPS, ResidualMap, ResidualProblem
from compressor.fusion.sources import Source
from compressor.fusion.student import Student

#: Calibration samples that a pilot is built on.
PILOT_SAMPLES = 256


@dataclass(frozen=True)
class Candidate:
    """A residual map by name, and the share of each teacher in its coordinates."""

    method: str
    shares: tuple[float, ...]
    label: str

    def make(self, problem: ResidualProblem) -> ResidualMap:
        return RESIDUAL_MAPS.get(self.method)(replace(problem, weights=self.shares))


def candidates(
    method: str, sources: Sequence[Source], *, rotatable: bool, evidence: bool, fixed_weights: bool
) -> list[Candidate]:
    """What there is to choose from.

    Args:
        method: name of a registered residual map, or auto.
        sources: the teachers.
        rotatable: whether residual coordinates may be rotated.
        evidence: whether there is data to judge candidates by; without any, transport to the barycentre is taken.
        fixed_weights: whether the user gave the teachers' weights.
    """
    alpha = tuple(source.weight for source in sources)
    if method == "auto":  # the last one is the strongest where it applies, so it is also tried on each teacher alone
        methods = ["barycentre", *(["principal"] if rotatable else [])] if evidence else ["barycentre"]
    else:
        RESIDUAL_MAPS.get(method)
        methods = [method]
    found = []
    for name in methods:
        found.append(Candidate(name, alpha, f"{name} of all teachers" if len(sources) > 1 else name))
        if evidence and not fixed_weights and len(sources) > 1 and name in (methods[-1], method) and name != "anchor":
            for k, source in enumerate(sources):
                alone = tuple(1.0 if other == k else 0.0 for other in range(len(sources)))
                found.append(Candidate(name, alone, f"{name} of {source.name}"))
    return found


def choose(
    found: Sequence[Candidate],
    problem: ResidualProblem,
    make: Callable[[ResidualMap], Student],
    sources: Sequence[Source],
    batches: Sequence[Mapping[str, Tensor]],
    held_out: Sequence[Mapping[str, Tensor]],
    progress: Callable[[float], None] | None = None,
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Build a pilot of every candidate and take the one nearest to the ensemble on held-out samples.

    Args:
        found: the candidates.
        problem: the statistics that residual maps are made from.
        make: an unbuilt student for a residual map.
        sources: the teachers.
        batches: samples that pilots are built on.
        held_out: samples that judge them.
        progress: told the share done.

    Returns:
        The best candidate, and what was measured of each: label and held-out KL(ensemble || student) in nats.
    """
    if len(found) == 1:
        return found[0], []
    students = [make(candidate.make(problem)) for candidate in found]
    build(students, sources, batches, progress)
    target = [ensemble_log_probs([s.model for s in sources], [s.weight for s in sources], batch) for batch in held_out]
    scores = [divergence(student.model, held_out, target) for student in students]
    best = min(range(len(found)), key=lambda index: scores[index])
    measured = [{"candidate": c.label, "held_out_kl": score} for c, score in zip(found, scores, strict=True)]
    return found[best], measured


@torch.no_grad()
def ensemble_log_probs(models: Sequence[nn.Module], weights: Sequence[float], batch: Mapping[str, Tensor]) -> Tensor:
    """Log of the weighted mean of the teachers' probabilities, [B, ..., classes]."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    terms = [
        logits_of(model, inputs).double().log_softmax(-1) + torch.tensor(weight).log()
        for model, weight in zip(models, weights, strict=True)
    ]
    return torch.stack(terms).logsumexp(0)


@torch.no_grad()
def divergence(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], target: Sequence[Tensor]) -> float:
    """Mean KL(target || model) over the tokens or samples that count, in nats; infinite when it is not a number."""
    total, count = 0.0, 0
    for batch, wanted in zip(batches, target, strict=True):
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        own = logits_of(model, inputs).double().log_softmax(-1)
        kl = (wanted.exp() * (wanted - own)).sum(-1)
        mask = inputs.get("attention_mask")
        if mask is not None and kl.dim() > 1:
            kl = kl[mask.bool()]
        total, count = total + float(kl.sum()), count + kl.numel()
    mean = total / max(count, 1)
    return mean if mean == mean else float("inf")

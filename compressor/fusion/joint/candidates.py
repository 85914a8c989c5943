"""The automatic choice: small pilots of every candidate, judged on held-out calibration samples.

A candidate is a residual map, the teachers whose coordinates it is made from, and a map of inner units.  All candidates
share one walk of the teachers over a few samples; the student whose logits are closest to the ensemble's on samples
that no pilot has seen is then built on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy import Anatomy
from compressor.anatomy.hooks import logits_of
from compressor.ensemble import mix_predictions
from compressor.errors import UserError
from compressor.fusion.build.layerwise_build import build
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.maps.residual import RESIDUAL_MAPS, ResidualMap, ResidualProblem
from compressor.fusion.maps.units import UNIT_MAPS
from compressor.fusion.teacher import FusionTeacher

#: Calibration samples that a pilot is built on.
PILOT_SAMPLES = 64
#: Held-out logits that candidates are judged by, about: of a large vocabulary not all would fit into memory.
MOST_SCORED_LOGITS = 1 << 26
#: λ of a pilot's refit, and of any refit that has no held-out samples to choose by.
PILOT_RIDGE = 1e-3


#: Residual maps that rotate coordinates.
ROTATING = ("principal", "readers")
#: Others must beat the first candidate by this share: transport is preferred unless the evidence speaks.
MARGIN = 0.01


@dataclass(frozen=True)
class Candidate:
    """A residual map by name, the share of each teacher in its coordinates, and the map of heads and hidden units."""

    residual: str
    shares: tuple[float, ...]
    inner: str
    label: str

    @property
    def owners(self) -> tuple[bool, ...]:
        """Whose heads and units go with those coordinates: others' could not be computed from them."""
        return tuple(share > 0 for share in self.shares)

    def make(self, problems: Mapping[str, ResidualProblem]) -> dict[str, ResidualMap]:
        """The maps of every residual and embedding space; what cannot be rotated is coupled to a barycentre."""
        found = {}
        for space, problem in problems.items():
            possible = problem.rotatable or self.residual not in ROTATING or len(problems) == 1
            method = RESIDUAL_MAPS.get(self.residual if possible else "barycentre")
            found[space] = method(replace(problem, weights=self.shares))
        return found


def list_candidates(
    residual: str,
    inner: str,
    sources: Sequence[FusionTeacher],
    *,
    rotatable: bool,
    evidence: bool,
    alone: bool,
    refit: bool,
    reads: bool = False,
) -> list[Candidate]:
    """What there is to choose from, the transport default first.

    Args:
        residual: name of a registered residual map, or auto.
        inner: name of a registered inner map, or auto.
        sources: the teachers.
        rotatable: whether residual coordinates may be rotated.
        evidence: whether there is data to judge candidates by; without any, the first is taken.
        alone: whether the coordinates of single teachers may be tried (the user gave no weights).
        refit: whether linear modules will be refitted; choosing units serves that better than averaging them.
        reads: whether it is known what reads the residual stream.
    """
    every = tuple(source.weight for source in sources)
    single = [tuple(float(other == k) for other in range(len(sources))) for k in range(len(sources))]
    # Norms that follow coordinates are fitted anew, so a refit lets even those rotate that norms scale one by one.
    strongest = "readers" if reads else "principal" if rotatable or refit else "barycentre"
    chosen = "select" if refit else "transport"
    plans: list[tuple[str, tuple[float, ...], str]]
    if residual == "auto":
        # Where the width is enough, the common components of all carry the ensemble; else those of one teacher do.
        plans = [("barycentre", every, "transport")]
        plans += [(strongest, shares, chosen) for shares in ([every, *single] if alone else [every])]
    else:
        RESIDUAL_MAPS.get(residual)
        plans = [(residual, every, chosen)]
        plans += [(residual, one, chosen) for one in single if residual != "anchor"]
    if inner != "auto":
        if inner not in UNIT_MAPS.names():
            raise UserError(f"unknown inner map '{inner}' (known: {', '.join(('auto', *UNIT_MAPS.names()))})")
        plans = [(name, shares, inner) for name, shares, _ in plans]
    if not evidence:
        plans = plans[:1]
    if not alone:
        plans = [plan for plan in plans if plan[1] == every]
    return [Candidate(*plan, _label(*plan, sources)) for plan in dict.fromkeys(plans)]


def _label(residual: str, shares: tuple[float, ...], inner: str, sources: Sequence[FusionTeacher]) -> str:
    owners = [source.name for source, share in zip(sources, shares, strict=True) if share > 0]
    whose = "all teachers" if len(owners) == len(sources) else owners[0]
    return f"{residual} of {whose}, {inner}"


def choose_candidate(
    found: Sequence[Candidate],
    problems: Mapping[str, ResidualProblem],
    make: Callable[[Candidate, Mapping[str, ResidualMap]], StudentBuilder],
    sources: Sequence[FusionTeacher],
    batches: Sequence[Mapping[str, Tensor]],
    judge: PilotScorer,
    progress: Callable[[float], None] | None = None,
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Build a pilot of every candidate and take the one nearest to the ensemble on held-out samples.

    Args:
        found: the candidates.
        problems: the statistics that residual maps are made from, by space.
        make: an unbuilt student of a candidate, for its residual maps.
        sources: the teachers.
        batches: samples that pilots are built on.
        judge: of the pilots, on samples that none of them has seen.
        progress: told the share done.

    Returns:
        The best candidate, or the first if it is about as good, and of each its label and held-out
        KL(ensemble || student).
    """
    if len(found) == 1:
        return found[0], []
    students = [make(candidate, candidate.make(problems)) for candidate in found]
    build(students, sources, batches, progress)
    scores = [judge(student) for student in students]
    best = min(range(len(scores)), key=lambda i: scores[i])
    if within_margin(scores[0], scores[best]):
        best = 0
    measured = [{"candidate": c.label, judge.measure: score} for c, score in zip(found, scores, strict=True)]
    return found[best], measured


def within_margin(score: float, best: float) -> bool:
    """Whether a score is about as good as the best one."""
    return score <= (1 + MARGIN) * best + 1e-9


class PilotScorer:
    """How far a student is from the ensemble on held-out samples.

    With a head, KL(ensemble || student); without one, the squared error of its features as a share of the energy of the
    transported ones.

    Args:
        sources: the teachers.
        held_out: samples.
        anatomy: the student's.
    """

    def __init__(
        self, sources: Sequence[FusionTeacher], held_out: Sequence[Mapping[str, Tensor]], anatomy: Anatomy
    ) -> None:
        self.sources, self.held_out, self.output = sources, held_out, anatomy.output
        self.measure = "held_out_kl" if self.output is None else "held_out_error"

    @cached_property
    def target(self) -> list[Tensor]:
        """The ensemble's log-probabilities, of as many batches as `MOST_SCORED_LOGITS` logits allow."""
        models, shares = [s.model for s in self.sources], [s.weight for s in self.sources]
        found: list[Tensor] = []
        for batch in self.held_out:
            if sum(one.numel() for one in found) < MOST_SCORED_LOGITS:
                found.append(pooled_log_probs(models, shares, batch))
        return found

    @torch.no_grad()
    def __call__(self, student: StudentBuilder) -> float:
        if self.output is None:
            return divergence(student.model, self.held_out[: len(self.target)], self.target)
        missed, energy = 0.0, 0.0
        for batch in self.held_out:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            own = token_rows(logits_of(student.model, inputs), None).double()
            wanted = torch.zeros_like(own)
            for source, maps in zip(self.sources, student.maps, strict=True):
                wanted += maps[self.output].transport(token_rows(logits_of(source.model, inputs), None)).double()
            missed += float((own - wanted).square().sum())
            energy += float((wanted - wanted.mean(0)).square().sum())
        share = missed / max(energy, 1e-30)
        return share if share == share else float("inf")


@torch.no_grad()
def pooled_log_probs(models: Sequence[nn.Module], weights: Sequence[float], batch: Mapping[str, Tensor]) -> Tensor:
    """Log of the weighted mean of the teachers' probabilities, [B, ..., classes]."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return mix_predictions([logits_of(model, inputs).double().log_softmax(-1) for model in models], weights)


@torch.no_grad()
def divergence(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], target: Sequence[Tensor]) -> float:
    """Mean KL(target || model) over the tokens or samples that count, in nats; infinite when it is not a number."""
    total, count = 0.0, 0
    for batch, wanted in zip(batches, target, strict=True):
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        own = logits_of(model, inputs).double().log_softmax(-1)
        kl = (wanted.exp() * (wanted - own)).sum(-1)
        mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
        if mask is not None and kl.dim() > 1:
            kl = kl[mask.bool()]
        total, count = total + float(kl.sum()), count + kl.numel()
    mean = total / max(count, 1)
    return mean if mean == mean else float("inf")

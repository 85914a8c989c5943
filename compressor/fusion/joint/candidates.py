"""Candidates of a joint fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compressor.errors import UserError
from compressor.fusion.build.pilots import PilotScorer
from compressor.fusion.maps.residual import RESIDUAL_MAPS, ResidualMap, ResidualProblem, placed_coordinates
from compressor.fusion.maps.units import UNIT_MAPS
from compressor.fusion.teacher import FusionTeacher

#: Residual maps that rotate coordinates.
ROTATING = ("principal", "outliers", "readers")
#: Where teachers disagree, the coordinates of one must be so many times better than common ones: these gain more by the
#: reconstruction of layers, which pilots lack.
SINGLE_TEACHER_HANDICAP = 1.1


@dataclass(frozen=True)
class MapCandidate:
    """A choice of maps.

    Attributes:
        shares: the teachers', in residual coordinates.
    """

    residual: str
    shares: tuple[float, ...]
    inner: str
    label: str

    @property
    def owners(self) -> tuple[bool, ...]:
        """Teachers whose heads and units the coordinates can compute."""
        return tuple(share > 0 for share in self.shares)

    def make(self, problems: Mapping[str, ResidualProblem]) -> dict[str, ResidualMap]:
        """Residual and embedding maps; barycentres where nothing rotates."""
        maps = {}
        for space, problem in problems.items():
            if problem.placed:
                maps[space] = placed_coordinates(replace(problem, weights=self.shares))
                continue
            impossible = self.residual in ROTATING and coupled(problem, problems)
            method = RESIDUAL_MAPS.get("barycentre" if impossible else self.residual)
            maps[space] = method(replace(problem, weights=self.shares))
        return maps


def coupled(problem: ResidualProblem, problems: Mapping[str, ResidualProblem]) -> bool:
    """Whether a stream's coordinates can be coupled alone: one of several streams that norms keep from rotating."""
    return not (problem.placed or problem.rotatable or len(problems) == 1)


def list_candidates(
    residual: str,
    inner: str,
    teachers: Sequence[FusionTeacher],
    *,
    rotatable: bool,
    evidence: bool,
    alone: bool,
    refit: bool,
    reads: bool = False,
) -> list[MapCandidate]:
    """List all candidates, the transport default first.

    Args:
        rotatable: coordinates may rotate.
        evidence: data can compare candidates.
        alone: try single teachers.
        reads: the stream's reads are known.
    """
    every = tuple(teacher.weight for teacher in teachers)
    # A teacher without weight is left out, so its coordinates are no candidates.
    weighty = [k for k, teacher in enumerate(teachers) if teacher.weight > 0]
    single = [tuple(float(other == k) for other in range(len(teachers))) for k in weighty]
    # Norms in rotated coordinates are fitted anew, so a refit allows rotation even where norms scale each coordinate.
    rotated = "principal" if rotatable else "outliers"
    strongest = "readers" if reads else rotated if rotatable or refit else "barycentre"
    chosen = "select" if refit else "transport"
    plans: list[tuple[str, tuple[float, ...], str]]
    if residual == "auto":
        # Where the width suffices, common components serve best; else those of one teacher.
        plans = [("barycentre", every, "transport")]
        plans += [(strongest, shares, chosen) for shares in ([every, *single] if alone else [every])]
    else:
        RESIDUAL_MAPS.get(residual)
        plans = [(residual, every, chosen)]
        plans += [(residual, shares, chosen) for shares in single if residual != "anchor"]
    if inner != "auto":
        if inner not in UNIT_MAPS.names():
            raise UserError(f"unknown inner map '{inner}' (known: {', '.join(('auto', *UNIT_MAPS.names()))})")
        plans = [(name, shares, inner) for name, shares, _ in plans]
    if not evidence:
        plans = plans[:1]
    if not alone:
        plans = [plan for plan in plans if plan[1] == every]
    return [MapCandidate(*plan, _label(*plan, teachers)) for plan in dict.fromkeys(plans)]


def handicapped(score: float, candidate: MapCandidate, default: MapCandidate, scorer: PilotScorer) -> float:
    """A pilot's score to compare by.

    Args:
        default: a candidate of all teachers.
    """
    single = candidate.owners != default.owners
    return score * SINGLE_TEACHER_HANDICAP if single and scorer.teachers_disagree else score


def _label(residual: str, shares: tuple[float, ...], inner: str, teachers: Sequence[FusionTeacher]) -> str:
    owners = [teacher.name for teacher, share in zip(teachers, shares, strict=True) if share > 0]
    owner = "all teachers" if len(owners) == len(teachers) else owners[0]
    return f"{residual} of {owner}, {inner}"

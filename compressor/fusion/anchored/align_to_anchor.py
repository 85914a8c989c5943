"""Fusion towards an anchor, as in the paper: align and average.

With a refit, held-out samples choose the anchor's share, since one width cannot compute two averaged streams.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compressor.anatomy import Anatomy, Norm
from compressor.anatomy.sites import FlowGraph, flow_graph
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.anchored.align import Alignment
from compressor.fusion.anchored.aligned_student import AlignedStudent
from compressor.fusion.anchored.comparison import ByActivations, ByWeights, FeatureComparison
from compressor.fusion.anchored.policies import POLICIES, Policy
from compressor.fusion.build.build_student import build_student
from compressor.fusion.build.pilots import PilotScorer, pilot_set, scoring_batches, within_margin
from compressor.fusion.build.student import BuildOptions, BuiltStudent
from compressor.fusion.calibration.batches import Batch
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.token_filters import token_masks
from compressor.fusion.context import FusionContext
from compressor.fusion.teacher import FusionTeacher

#: {anchor's share tried besides the equal one: shares tried if it is best}.  A narrow anchor may be worse than the
#: teachers aligned to it.
ANCHOR_SHARES = {0.2: (0.1, 0.35), 0.8: (0.65, 0.9)}
#: Samples of their pilots: with fewer, averaged streams look worse than they are.
ANCHOR_SAMPLES = 256


def fuse_towards_anchor(context: FusionContext) -> BuiltStudent:
    """Build the student aligned to the anchor.

    Raises:
        UserError, UnsupportedError, CouplingError: see `Alignment`.
    """
    options = BuildOptions.from_context(context, "importance")
    weights = [teacher.weight for teacher in context.teachers]
    shares, scores = _choose_shares(context, options)
    context, student = _aligned_student(context, shares, options)
    build_student(context, student, start=0.1, aligned=True)
    return BuiltStudent(context.candidate, student, _choice(context, weights, scores))


def unfolded_anatomy(anatomy: Anatomy) -> Anatomy:
    """The anatomy without folding or centring."""
    flow = tuple(replace(item, folded=False) if isinstance(item, Norm) else item for item in anatomy.flow)
    return replace(anatomy, flow=flow, centred=frozenset(), scales=())


def _choose_shares(context: FusionContext, options: BuildOptions) -> tuple[Sequence[float], list[dict[str, Any]]]:
    """The teachers' shares, and pilots' scores."""
    equal = tuple(teacher.weight for teacher in context.teachers)
    place = next((k for k, teacher in enumerate(context.teachers) if teacher is context.anchor), None)
    given = not isinstance(context.options.weights, str) or not context.refit or not context.has_held_out
    if given or place is None or len(equal) == 1:
        return equal, []
    scorer = PilotScorer(context.teachers, scoring_batches(context), context.anatomy, context.mixing)
    pilot_context = replace(
        context, calibration=pilot_set(context, ANCHOR_SAMPLES), on_progress=lambda fraction, message: None
    )
    scores: dict[float, float] = {}

    def measure(share: float) -> None:
        if share in scores:
            return
        context.on_progress(0.02 + 0.015 * len(scores), "choosing the share of the anchor")
        candidate = replace(context.candidate, model=copy.deepcopy(context.model))
        shares = _divided(share, place, len(equal))
        aligned, student = _aligned_student(
            replace(pilot_context, candidate=candidate), shares, options.of_pilot(head=False)
        )
        build_student(aligned, student, aligned=True)
        scores[share] = scorer(student)

    for share in (equal[place], *ANCHOR_SHARES):
        measure(share)
    for share in ANCHOR_SHARES.get(min(scores, key=scores.__getitem__), ()):
        measure(share)
    context.timer.lap("choose")
    best = min(scores, key=scores.__getitem__)
    if within_margin(scores[equal[place]], scores[best]):
        best = equal[place]
    anchor = context.teachers[place].name
    return _divided(best, place, len(equal)), [
        {"candidate": f"{anchor} with a share of {share:g}", scorer.measure: score}
        for share, score in sorted(scores.items())
    ]


def _divided(share: float, place: int, teachers: int) -> tuple[float, ...]:
    """All shares; the others divide the rest equally."""
    return tuple(share if k == place else (1 - share) / (teachers - 1) for k in range(teachers))


def _aligned_student(
    context: FusionContext, shares: Sequence[float], options: BuildOptions
) -> tuple[FusionContext, AlignedStudent]:
    """The aligned context, and an unbuilt student."""
    teachers = [replace(teacher, weight=share) for teacher, share in zip(context.teachers, shares, strict=True)]
    context, alignment = _align_teachers(replace(context, teachers=teachers))
    student = AlignedStudent(context.model, context.anatomy, context.teachers, {}, options, alignment=alignment)
    return context, student


def _align_teachers(context: FusionContext) -> tuple[FusionContext, Alignment]:
    """The context with stream sites, and the alignment."""
    policy, residual = POLICIES.get(context.options.residual), context.options.residual
    assert context.anchor is not None
    if context.options.inner != "auto":
        raise UserError(
            f"the residual policy '{residual}' aligns heads and hidden units to the anchor's too: leave "
            f"out --inner {context.options.inner}"
        )
    graph = _flow_graph(context.anatomy, policy, folded=context.refit)
    _check_tied(graph, policy, residual)
    *teachers, anchor = (
        replace(teacher, anatomy=_flow_graph(teacher.anatomy, policy, folded=context.refit).anatomy)
        for teacher in (*context.teachers, context.anchor)
    )
    context = replace(context, teachers=teachers, anchor=anchor, anatomy=graph.anatomy)
    context.on_progress(0.05, "comparing coordinates")
    comparison: FeatureComparison
    # The identity compares nothing, so averaging costs no pass of the teachers.
    if context.calibration is None or not context.from_activations or policy.start == "identity":
        comparison = ByWeights(teachers, anchor, graph)
    else:
        comparison = _by_activations(context, anchor, context.calibration.all, graph, policy)
    context.timer.lap("statistics")
    alignment = Alignment(
        graph, teachers, anchor, comparison, policy, context.options.alignment, context.coupling, context.timer.lap
    )
    context.timer.lap("solve")
    return context, alignment


def _by_activations(
    context: FusionContext, anchor: FusionTeacher, batches: Sequence[Batch], graph: FlowGraph, policy: Policy
) -> ByActivations:
    chosen = token_masks(context.options.alignment.tokens, context.teachers, graph.anatomy, batches)
    masks = Masks(batches, graph.anatomy, chosen=chosen)
    return ByActivations(
        context.teachers, anchor, graph, batches, masks, everywhere=policy.start == "everywhere",
        weighs=policy.weighs, lap=context.timer.lap,
    )  # fmt: skip


def _flow_graph(anatomy: Anatomy, policy: Policy, *, folded: bool) -> FlowGraph:
    """A policy's flow graph; one map needs no sites."""
    entries = tuple(stack.residual for stack in anatomy.stacks)
    graph = flow_graph(anatomy) if policy.local else FlowGraph(anatomy, entries, ())
    return graph if folded else replace(graph, anatomy=unfolded_anatomy(graph.anatomy))


def _check_tied(graph: FlowGraph, policy: Policy, name: str) -> None:
    tied = next((op for op in graph.anatomy.steps if op.tied), None)
    if policy.local and tied is not None:
        raise UnsupportedError(
            f"{tied.module} shares its weight with the embedding, so the residual stream needs one map throughout and "
            f"'{name}' gives it several: take {', '.join(n for n in POLICIES.names() if not POLICIES.get(n).local)}"
        )


def _choice(context: FusionContext, weights: Sequence[float], scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report on the choice; weights: the ensemble's, not the shares."""
    assert context.anchor is not None
    why = "a residual policy was asked for"
    return {
        "residual": f"{context.options.residual} towards {context.anchor.name}",
        "inner": "aligned to the anchor",
        "refit": context.refit,
        "shares": {teacher.name: teacher.weight for teacher in context.teachers},
        "weights": {teacher.name: weight for teacher, weight in zip(context.teachers, weights, strict=True)},
        "candidates": list(scores),
        "why": why if not scores else f"{why}; of the shares of the anchor this came nearest to the ensemble",
    }

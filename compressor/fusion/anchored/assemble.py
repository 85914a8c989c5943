"""The paper's way: all teachers aligned to an anchor, their weights averaged, and refitted if that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from compressor.anatomy import Anatomy, Norm
from compressor.anatomy.sites import FlowGraph, flow_graph
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.anchored.align import Alignment
from compressor.fusion.anchored.comparison import ByActivations, ByWeights, FeatureComparison
from compressor.fusion.anchored.policies import POLICIES, Policy
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.token_filters import token_masks
from compressor.fusion.context import FusionContext
from compressor.fusion.teacher import FusionTeacher


def align_teachers(job: FusionContext) -> tuple[FusionContext, Alignment]:
    """How every teacher is aligned to the anchor of a job.

    Returns:
        The job, its anatomies with a key for every site of the residual stream, and what makes the maps by key.

    Raises:
        UserError, UnsupportedError, CouplingError: see `compressor.fusion.anchored.align.Alignment`.
    """
    policy, options = POLICIES.get(job.options.residual), job.options.alignment
    assert job.guide is not None
    if job.options.inner != "auto":
        raise UserError(
            f"the residual policy '{job.options.residual}' aligns heads and hidden units to the anchor's too: leave "
            f"out --inner {job.options.inner}"
        )
    graph = _graph(job.anatomy, policy, folded=job.refit)
    _check_tied(graph, policy, job.options.residual)
    sources, guide = (
        [replace(source, anatomy=_graph(source.anatomy, policy, folded=job.refit).anatomy) for source in group]
        for group in (job.sources, [job.guide])
    )
    job = replace(job, sources=sources, guide=guide[0], anatomy=graph.anatomy)
    job.tell(0.05, "comparing coordinates")
    comparison: FeatureComparison
    # Where nothing is aligned nothing is compared, so that averaging costs no pass of the teachers.
    if job.calibration is None or not job.from_activations or policy.start == "identity":
        comparison = ByWeights(sources, guide[0], graph)
    else:
        comparison = _by_activations(job, sources, guide[0], graph, policy)
    job.clock.lap("statistics")
    alignment = Alignment(graph, sources, guide[0], comparison, policy, options, job.clock.lap)
    job.clock.lap("solve")
    return job, alignment


def unfolded_anatomy(anatomy: Anatomy) -> Anatomy:
    """The anatomy of weights as they are: no norm or layer scale is folded, no writer centred."""
    flow = tuple(replace(item, folded=False) if isinstance(item, Norm) else item for item in anatomy.flow)
    return replace(anatomy, flow=flow, centred=frozenset(), scales=())


def report_choice(
    job: FusionContext, ensemble: Sequence[float], measured: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The report's words on a student that was asked for.

    Args:
        job: what it was made from; its teachers' weights are their shares.
        ensemble: their weights in the ensemble that the student is measured by.
        measured: the pilots that chose the shares, if any did.
    """
    assert job.guide is not None
    why = "a residual policy was asked for"
    return {
        "residual": f"{job.options.residual} towards {job.guide.name}",
        "inner": "aligned to the anchor",
        "refit": job.refit,
        "shares": {source.name: source.weight for source in job.sources},
        "weights": {source.name: weight for source, weight in zip(job.sources, ensemble, strict=True)},
        "candidates": list(measured),
        "why": why if not measured else f"{why}; of the shares of the anchor this came nearest to the ensemble",
    }


def _graph(anatomy: Anatomy, policy: Policy, *, folded: bool) -> FlowGraph:
    """The flow graph that a policy needs; a policy of one map has no use for sites."""
    entries = tuple(stack.residual for stack in anatomy.stacks)
    graph = flow_graph(anatomy) if policy.local else FlowGraph(anatomy, entries, ())
    return graph if folded else replace(graph, anatomy=unfolded_anatomy(graph.anatomy))


def _check_tied(graph: FlowGraph, policy: Policy, name: str) -> None:
    tied = next((step for step in graph.anatomy.steps if step.tied), None)
    if policy.local and tied is not None:
        raise UnsupportedError(
            f"{tied.module} shares its weight with the embedding, so the residual stream needs one map throughout and "
            f"'{name}' gives it several: take {', '.join(n for n in POLICIES.names() if not POLICIES.get(n).local)}"
        )


def _by_activations(
    job: FusionContext, sources: Sequence[FusionTeacher], guide: FusionTeacher, graph: FlowGraph, policy: Policy
) -> ByActivations:
    batches: Sequence[Mapping[str, Tensor]] = job.calibration or ()
    chosen = token_masks(job.options.alignment.tokens, sources, graph.anatomy, batches)
    masks = Masks(batches, graph.anatomy, chosen=chosen)
    return ByActivations(
        sources, guide, graph, batches, masks, everywhere=policy.start == "everywhere", weighs=policy.weighs,
        lap=job.clock.lap,
    )  # fmt: skip

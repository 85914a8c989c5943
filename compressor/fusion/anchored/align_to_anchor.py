"""The paper's way: every coordinate of every teacher is aligned to those of an anchor, and weights are averaged.

Where they are refitted as well, the anchor's share in the average is chosen on held-out samples: two teachers' residual
streams, averaged alike, are more than one width can compute, while the anchor's own stream is there already.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from compressor.fusion.anchored.aligned_student import AlignedStudent
from compressor.fusion.anchored.assemble import align_teachers, report_choice
from compressor.fusion.build.student import BuildOptions
from compressor.fusion.context import BuiltStudent, FusionContext
from compressor.fusion.joint import search
from compressor.fusion.joint.candidates import PilotScorer, within_margin

#: Shares of the anchor that are tried beside that of all alike, and of each those beside it that follow where it is the
#: best; the other teachers divide the rest.  A narrow anchor may well be worse than what is aligned to it.
ANCHOR_SHARES = {0.2: (0.1, 0.35), 0.8: (0.65, 0.9)}
#: Samples that their pilots are built on: of fewer, averaged streams look worse than they are.
ANCHOR_SAMPLES = 256


def fuse_towards_anchor(job: FusionContext) -> BuiltStudent:
    """Make the student aligned to the job's anchor.

    Raises:
        UserError, UnsupportedError, CouplingError: see `compressor.fusion.anchored.align.Alignment`.
    """
    options = search.build_options(job, "importance")
    ensemble = [source.weight for source in job.sources]
    shares, measured = _shares(job, options)
    job, student = _student(job, shares, options)
    search.build_student(job, student, begun=0.1, aligned=True)
    return BuiltStudent(job.form, student, report_choice(job, ensemble, measured))


def _student(
    job: FusionContext, shares: Sequence[float], options: BuildOptions
) -> tuple[FusionContext, AlignedStudent]:
    """The job, aligned, and an unbuilt student in which the teachers have these shares."""
    sources = [replace(source, weight=share) for source, share in zip(job.sources, shares, strict=True)]
    job, alignment = align_teachers(replace(job, sources=sources))
    return job, AlignedStudent(job.model, job.anatomy, job.sources, {}, options, alignment=alignment)


def _shares(job: FusionContext, options: BuildOptions) -> tuple[Sequence[float], list[dict[str, Any]]]:
    """Each teacher's share in the weights, and what was measured to choose it."""
    alike = tuple(source.weight for source in job.sources)
    place = next((k for k, source in enumerate(job.sources) if source is job.guide), None)
    settled = job.options.weights != "auto" or not job.refit or not job.held_out
    if settled or place is None or len(alike) == 1:
        return alike, []
    judge = PilotScorer(job.sources, search.scoring_batches(job), job.anatomy)
    few = replace(
        job, calibration=search.pilot_batches(job, ANCHOR_SAMPLES), held_out=0, tell=lambda share, stage: None
    )
    scores: dict[float, float] = {}

    def measure(share: float) -> None:
        if share in scores:
            return
        job.tell(0.02 + 0.015 * len(scores), "choosing the share of the anchor")
        pilot = replace(few, form=replace(job.form, model=copy.deepcopy(job.model)))
        trial = replace(options, held_out=0, ridges=options.ridges if len(options.ridges) == 1 else search.PILOT_RIDGES)
        pilot, student = _student(pilot, _divided(share, place, len(alike)), trial)
        search.build_student(pilot, student, aligned=True)
        scores[share] = judge(student)

    for share in (alike[place], *ANCHOR_SHARES):
        measure(share)
    for share in ANCHOR_SHARES.get(min(scores, key=scores.__getitem__), ()):
        measure(share)
    job.clock.lap("choose")
    best = min(scores, key=scores.__getitem__)
    if within_margin(scores[alike[place]], scores[best]):
        best = alike[place]
    anchor = job.sources[place].name
    return _divided(best, place, len(alike)), [
        {"candidate": f"{anchor} with a share of {share:g}", judge.measure: score}
        for share, score in sorted(scores.items())
    ]


def _divided(share: float, place: int, teachers: int) -> tuple[float, ...]:
    """The anchor's share at its place among the teachers; the others have the rest alike."""
    return tuple(share if k == place else (1 - share) / (teachers - 1) for k in range(teachers))

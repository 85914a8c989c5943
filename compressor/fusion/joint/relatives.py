"""Fine-tunes of one ancestor have units in common: whether to pair these is judged by finished students.

Pilots rank pairs wrongly, for on few samples they lose what finished students gain (benchmarks/NOTES.md).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from compressor.fusion.build.build_student import build_student
from compressor.fusion.build.pilots import PilotScorer
from compressor.fusion.build.student import BuildOptions, StudentBuilder
from compressor.fusion.context import FusionContext
from compressor.fusion.joint.trials import PilotScore, Trial, TrialSearch
from compressor.fusion.maps.pairs import NAME as PAIRED
from compressor.fusion.teacher import FusionTeacher

#: Mean cosine of two teachers' matrices from which one model is the ancestor of both; other seeds have one near 0.
RELATED_COSINE = 0.8
#: The choice of units of relatives, in words.
WHY_PAIRED = "the teachers are fine-tunes of one model, so units were paired in one of two finished students"
#: Progress of a fusion where building begins.
BUILD_START = 0.4


@torch.no_grad()
def are_relatives(teachers: Sequence[FusionTeacher]) -> bool:
    """Whether several teachers have the same matrices by name and shape, and nearly the same values in them."""
    weighty = [teacher.model for teacher in teachers if teacher.weight > 0]
    first, *others = [{n: p for n, p in model.named_parameters() if p.dim() > 1} for model in weighty]
    shapes = {name: value.shape for name, value in first.items()}
    if not (others and shapes):
        return False
    for other in others:
        if {name: value.shape for name, value in other.items()} != shapes:
            return False
        pairs = [(value.flatten(), other[name].flatten()) for name, value in first.items()]
        cosines = [torch.cosine_similarity(own.float(), its.float(), dim=0) for own, its in pairs]
        if float(torch.stack(cosines).mean()) < RELATED_COSINE:
            return False
    return True


def may_pair(context: FusionContext, chosen: Trial) -> bool:
    """Whether pairs of units are worth a second student: chosen units of all teachers, which are relatives."""
    asked = context.options.inner != "auto" or not context.has_held_out
    selected = chosen.maps.inner == "select" and all(chosen.maps.owners)
    return not asked and selected and are_relatives(context.teachers)


def build_nearer(
    context: FusionContext, search: TrialSearch, chosen: Trial, options: BuildOptions, scorer: PilotScorer
) -> tuple[Trial, StudentBuilder]:
    """Students of units chosen one by one and in pairs, each finished; the one that is nearer to the ensemble.

    Returns:
        What was taken, which `search.measured` has too, and its student, whose shape's model is a new one.
    """
    assert context.calibration is not None
    samples = sum(len(next(iter(batch.values()))) for batch in context.calibration.train)
    label = chosen.maps.label.removesuffix(chosen.maps.inner) + PAIRED
    built: dict[Trial, StudentBuilder] = {}

    def on_progress(fraction: float, message: str) -> None:
        # Each of both builds goes on from where the choice ended.
        context.on_progress(BUILD_START + (len(built) * (1 - BUILD_START) + fraction - BUILD_START) / 2, message)

    for maps in (chosen.maps, replace(chosen.maps, inner=PAIRED, label=label)):
        begun = time.perf_counter()
        shape = replace(chosen.shape, model=copy.deepcopy(chosen.shape.model))
        student = StudentBuilder(
            shape.model, shape.anatomy, context.teachers, search.residual_maps(chosen.maps),
            replace(options, inner=maps.inner),
        )  # fmt: skip
        build_student(replace(context.with_candidate(shape), on_progress=on_progress), student, start=BUILD_START)
        trial = Trial(chosen.shape, maps)
        search.measured[trial] = PilotScore(scorer(student), samples, time.perf_counter() - begun)
        built[trial] = student
    best = min(built, key=lambda trial: search.measured[trial].score)
    return best, built[best]

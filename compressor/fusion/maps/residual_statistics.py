"""The problems that a job's residual maps solve: one for every residual and embedding space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from compressor.fusion.calibration.batches import take_samples
from compressor.fusion.context import FusionContext
from compressor.fusion.features.weight_features import space_weight_gram
from compressor.fusion.maps.residual import ResidualProblem
from compressor.fusion.maps.stream_statistics import space_grams, space_reads
from compressor.fusion.plan import BuildPlan

#: Calibration samples from which residual maps are made: every layer's tokens count, so few are enough.
RESIDUAL_SAMPLES = 128


def residual_problems(job: FusionContext) -> dict[str, ResidualProblem]:
    """Joint statistics of every residual and embedding space; an anchor's coordinates stand behind the teachers'."""
    models = [*job.sources, *([job.guide] if job.guide is not None else [])]
    wide = BuildPlan(job.anatomy).wide
    if job.calibration is None or not job.from_activations:
        grams = {space: space_weight_gram(models, space) for space in wide}
    else:
        grams = space_grams(models, job.anatomy, wide, take_samples(job.calibration, RESIDUAL_SAMPLES))
    alignment = job.options.alignment
    return {
        space: ResidualProblem(
            gram=grams[space],
            sizes=[source.space(space).size for source in job.sources],
            weights=[source.weight for source in job.sources],
            m=job.anatomy.spaces[space].size,
            centred=space in job.anatomy.centred and job.anatomy.rotatable(space),
            rotatable=job.anatomy.rotatable(space),
            cost=alignment.cost,
            solver=alignment.solver,
            epsilon=alignment.epsilon,
        )
        for space in wide
    }


def with_reads(job: FusionContext, problems: Mapping[str, ResidualProblem]) -> dict[str, ResidualProblem]:
    """The problems with what reads each space; the teachers run once more, since few maps ask for that.

    Args:
        job: has calibration samples.
        problems: by space.
    """
    assert job.calibration is not None
    reads = space_reads(job.sources, job.anatomy, list(problems), take_samples(job.calibration, RESIDUAL_SAMPLES))
    return {space: replace(problem, reads=reads[space]) for space, problem in problems.items()}

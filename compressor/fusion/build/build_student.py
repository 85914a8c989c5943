"""Build the student of a fusion: from weights alone, or in step with the teachers."""

from __future__ import annotations

from compressor.fusion.build.finished_layers import FinishedLayers
from compressor.fusion.build.from_weights import build_from_weights
from compressor.fusion.build.layerwise_build import build_layerwise
from compressor.fusion.build.reconstruction import samples_per_step
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.sizes import enough_samples
from compressor.fusion.context import FusionContext

#: By effort, the share of the tokens that a refit needs; None takes all there are.
REFIT_SHARES: dict[str, float | None] = {"fast": 0.25, "normal": 1.0, "thorough": None}


def build_student(
    context: FusionContext,
    student: StudentBuilder,
    *,
    start: float = 0.4,
    aligned: bool = False,
    finished: FinishedLayers | None = None,
) -> None:
    """Build the student of a fusion.

    Args:
        aligned: maps need no activations.
        finished: gets the layers of a model whose weights are read from disk.
    """

    def on_progress(fraction: float) -> None:
        context.on_progress(start + (1 - start) * fraction, "building the student")

    if not needs_activations(context, aligned=aligned):
        build_from_weights([student], context.teachers, on_progress, finished)
    else:
        calibration = context.calibration or CalibrationSet(())
        if student.options.reconstruction_steps:
            calibration = calibration.rebatched(samples_per_step)
        elif (share := REFIT_SHARES[context.options.effort]) is not None:
            calibration = enough_samples(context.teachers[0], context.anatomy, calibration, share)
        build_layerwise(
            [student], context.teachers, calibration, on_progress, store=context.store, finished=finished,
            processes=context.processes,
        )  # fmt: skip
    context.timer.lap("build")


def needs_activations(context: FusionContext, *, aligned: bool = False) -> bool:
    """Whether the teachers must run, to refit or to compare coordinates."""
    return context.calibration is not None and (context.refit or (context.from_activations and not aligned))

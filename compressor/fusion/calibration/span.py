"""One teacher's layers for one of the student's."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from compressor.anatomy.hooks import Tap
from compressor.fusion.calibration.layerwise import LayerwiseRunner, OnBatch
from compressor.fusion.teacher import FusionTeacher


def capture_span(
    runner: LayerwiseRunner,
    teacher: FusionTeacher,
    layer: str,
    taps: Sequence[Tap],
    stream_taps: Collection[Tap],
    on_batch: OnBatch,
) -> None:
    """Run a teacher's layers for one of the student's and capture tensors of the last.

    Args:
        taps: by the student's names.
        stream_taps: of the residual stream, which a teacher that waits for the others leaves unchanged.
        on_batch: gets batch and values by the student's names.
    """
    span = teacher.span(layer)
    local = {(teacher.local_name(module), end): (module, end) for module, end in taps}
    waiting = set() if span.layers else stream_taps

    def record(batch: int, captured: dict[Tap, Tensor]) -> None:
        values = {local[tap]: value for tap, value in captured.items()}
        values |= {tap: runner.hidden[batch].reshape(values[tap].shape) for tap in waiting if tap in values}
        on_batch(batch, values)

    for passed in span.layers[:-1]:
        runner.advance(passed)
    runner.capture(span.counterpart, list(local), record, advance=bool(span.layers), again=not span.layers)

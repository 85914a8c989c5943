"""Stages of a run: progress and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Callback `(stage, fraction, message)`; the fraction is None if it is not known.
OnStage = Callable[[str, float | None, str], None]

#: Callback `(fraction, message)` of one stage.
OnStageProgress = Callable[[float | None, str], None]


class StageReporter:
    """Reports stages and adds up their seconds.

    Args:
        begun: start of the run, by `time.perf_counter`; until now is stage "start".
    """

    def __init__(self, progress: OnStage | None = None, begun: float | None = None) -> None:
        self._progress = progress
        self._begun = time.perf_counter() if begun is None else begun
        self.seconds: dict[str, float] = {}
        if begun is not None:
            self.seconds["start"] = time.perf_counter() - begun

    @contextmanager
    def __call__(self, stage: str, message: str) -> Iterator[OnStageProgress]:
        """Time the block as `stage`; yields its progress callback."""

        def on_progress(fraction: float | None, message: str) -> None:
            if self._progress:
                self._progress(stage, fraction, message)

        begun = time.perf_counter()
        on_progress(None, message)
        try:
            yield on_progress
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun

    def report(self) -> dict[str, float]:
        """Seconds by stage; "total" includes time between stages."""
        return {**self.seconds, "total": time.perf_counter() - self._begun}

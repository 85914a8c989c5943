"""The stages of a run: who is told of them, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Told the stage, the share of it that is done (None where that is not known) and a line that says what is done.
OnStage = Callable[[str, float | None, str], None]

#: Told the share done and what is being done, inside one stage.
OnStageProgress = Callable[[float | None, str], None]


class StageReporter:
    """Seconds by stage, in the order in which stages began; a stage that is entered again adds to its own.

    Args:
        progress: told of every stage and of the steps inside it.
        begun: when the run began, by `time.perf_counter`; the time until now is stage "start".
    """

    def __init__(self, progress: OnStage | None = None, begun: float | None = None) -> None:
        self._progress = progress
        self._begun = time.perf_counter() if begun is None else begun
        self.seconds: dict[str, float] = {}
        if begun is not None:
            self.seconds["start"] = time.perf_counter() - begun

    @contextmanager
    def __call__(self, stage: str, line: str) -> Iterator[OnStageProgress]:
        """Time the block as `stage`; what it yields tells of progress inside."""

        def tell(share: float | None, line: str) -> None:
            if self._progress:
                self._progress(stage, share, line)

        begun = time.perf_counter()
        tell(None, line)
        try:
            yield tell
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun

    def report(self) -> dict[str, float]:
        """Seconds by stage, and their "total", which includes what lies between them."""
        return {**self.seconds, "total": time.perf_counter() - self._begun}

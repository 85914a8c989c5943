"""Progress bars, one per stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

#: Called with the stage, the share of it that is done (None: unknown) and a description.
ShowProgress = Callable[[str, float | None, str], None]


@contextmanager
def progress_bars(console: Console, visible: bool) -> Iterator[ShowProgress | None]:
    """A callback that draws on `console` (stderr), if `visible`."""
    if not visible:
        yield None
        return
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=8) as progress:
        bars = _Bars(progress)
        yield bars
        bars.finish()


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: str | None = None
        self._task: TaskID | None = None
        self._done = False

    def __call__(self, stage: str, share: float | None, line: str) -> None:
        # As `Text`: a folder name in brackets is not markup.
        description = Text(line).markup
        # A stage that starts again gets a new line.
        if stage != self._stage or self._task is None or (self._done and share is None):
            self.finish()
            self._stage, self._task = stage, self._progress.add_task(description, total=None)
        self._progress.update(self._task, description=description)
        self._done = share is not None and share >= 1
        if share is not None:
            self._progress.update(self._task, total=1.0, completed=share)

    def finish(self) -> None:
        """Complete the current bar."""
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0)

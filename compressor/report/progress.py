"""Progress bars: one line a stage, with what is done and how long it will take; scores stay on the lines behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

#: Told the stage, the share of it that is done (None: not known) and what is being done.
ShowProgress = Callable[[str, float | None, str], None]


@contextmanager
def progress_bars(console: Console, visible: bool) -> Iterator[ShowProgress | None]:
    """What a run tells its progress to, drawn on `console`; None, and nothing drawn, unless `visible`.

    Args:
        console: of stderr, so that results on stdout stay clean.
        visible: whether somebody is looking.
    """
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
    with Progress(*columns, console=console, refresh_per_second=8) as drawn:
        shown = _Bars(drawn)
        yield shown
        shown.finish()


class _Bars:
    def __init__(self, drawn: Progress) -> None:
        self._drawn = drawn
        self._stage: str | None = None
        self._task: TaskID | None = None
        self._done = False

    def __call__(self, stage: str, share: float | None, line: str) -> None:
        # As text: a folder name in brackets is no markup.
        description = Text(line).markup
        # A stage that is entered again begins a line of its own.
        if stage != self._stage or self._task is None or (self._done and share is None):
            self.finish()
            self._stage, self._task = stage, self._drawn.add_task(description, total=None)
        self._drawn.update(self._task, description=description)
        self._done = share is not None and share >= 1
        if share is not None:
            self._drawn.update(self._task, total=1.0, completed=share)

    def finish(self) -> None:
        """Mark the stage that is running as done."""
        if self._task is not None:
            self._drawn.update(self._task, total=1.0, completed=1.0)

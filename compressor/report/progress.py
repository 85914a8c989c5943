"""Progress of a command: one bar per stage on a terminal, one plain line per stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

#: Called with the stage, the share of it that is done (None: unknown) and a description.
ShowProgress = Callable[[str, float | None, str], None]

#: The stage in which libraries are imported; it leaves no line.
IMPORTING = "start"
#: Seconds from the first stage in which plain lines are held back, so that an early refusal is one line.
HELD_SECONDS = 2.0
#: Seconds after which a stage that goes on writes another plain line.
SILENT_SECONDS = 60.0
#: Columns of a time, such as "0:01:30".
_TIME_WIDTH = 7
#: Before the time that a stage still takes.
_LEFT = "left "


class _Remaining(TimeRemainingColumn):
    """The time that a stage still takes, or nothing: an elapsed time must not seem to be one that is left."""

    def render(self, task: Task) -> Text:
        known = task.total is not None and task.time_remaining is not None
        return Text.assemble((_LEFT, "dim"), super().render(task)) if known else Text()


@contextmanager
def progress_bars(console: Console, visible: bool) -> Iterator[ShowProgress | None]:
    """A callback that draws on `console` (stderr), if `visible`."""
    if not visible:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=16),
        TimeElapsedColumn(table_column=Column(width=_TIME_WIDTH, no_wrap=True)),
        _Remaining(table_column=Column(width=len(_LEFT) + _TIME_WIDTH, no_wrap=True)),
    )
    with Progress(*columns, console=console, refresh_per_second=8, expand=True) as progress:
        bars = _Bars(progress)
        yield bars
        bars.finish()


@contextmanager
def progress_lines(write: Callable[[str], None], visible: bool) -> Iterator[ShowProgress | None]:
    """A callback that writes a line at the end of each stage, with its time and its last description."""
    if not visible:
        yield None
        return
    lines = _Lines(write)
    yield lines
    lines.finish()
    lines.flush()


class _Stages:
    """Tells stages apart."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._begun = 0.0
        self._line = ""
        self._done = False

    def __call__(self, stage: str, share: float | None, line: str) -> None:
        # A stage that starts again gets a new line.
        if stage != self._stage or (self._done and share is None):
            self.finish()
            self._stage, self._begun = stage, time.monotonic()
            self._start(line)
        self._line, self._done = line, share is not None and share >= 1
        self._update(share, line)

    def finish(self) -> None:
        """Complete the current stage."""
        if self._stage is not None:
            self._end(self._line, time.monotonic() - self._begun, leave=self._stage != IMPORTING)
            self._stage = None

    def _start(self, line: str) -> None:
        """A stage starts."""

    def _update(self, share: float | None, line: str) -> None:
        """It goes on."""

    def _end(self, line: str, seconds: float, *, leave: bool) -> None:
        """It ended; `leave` a trace of it."""


class _Bars(_Stages):
    """A bar for the current stage, below a line for each finished one."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task = TaskID(0)

    def _start(self, line: str) -> None:
        self._task = self._progress.add_task(_escaped(line), total=None)

    def _update(self, share: float | None, line: str) -> None:
        self._progress.update(self._task, description=_escaped(line))
        if share is not None:
            self._progress.update(self._task, total=1.0, completed=share)

    def _end(self, line: str, seconds: float, *, leave: bool) -> None:
        self._progress.remove_task(self._task)
        if not leave:
            return
        row = Table.grid(
            Column(), Column(ratio=1, no_wrap=True, overflow="ellipsis"), Column(), expand=True, padding=(0, 1, 0, 0)
        )
        row.add_row(Text("✓", style="green"), Text(line), Text(_clock(seconds), style="yellow"))
        self._progress.console.print(row)


class _Lines(_Stages):
    """A plain line for each finished stage, and one a minute for a long one."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self._held: list[str] = []
        self._first: float | None = None
        self._written = time.monotonic()

    def flush(self) -> None:
        """Write the lines held back."""
        for line in self._held:
            self._write(line)
        if self._held:
            self._written = time.monotonic()
        self._held.clear()

    def _start(self, line: str) -> None:
        if self._first is None and self._stage != IMPORTING:
            self._first = time.monotonic()

    def _update(self, share: float | None, line: str) -> None:
        if not self._done and time.monotonic() - max(self._written, self._begun) >= SILENT_SECONDS:
            done = "" if share is None else f", {share:.0%} done"
            self._held.append(_stamped(f"{line} (after {_clock(time.monotonic() - self._begun)}{done})"))
            self.flush()

    def _end(self, line: str, seconds: float, *, leave: bool) -> None:
        if not leave:
            return
        self._held.append(_stamped(f"{line} ({seconds:.1f} s)"))
        if self._first is not None and time.monotonic() - self._first >= HELD_SECONDS:
            self.flush()


def _escaped(line: str) -> str:
    # As `Text`: a folder name in brackets is not markup.
    return Text(line).markup


def _stamped(line: str) -> str:
    return f"{time.strftime('%H:%M:%S')} {' '.join(line.split())}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))

"""Output: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from compressor.report.progress import IMPORTING, ShowProgress, progress_bars, progress_lines
from compressor.utils import distributed
from compressor.utils.strict_json import json_text

if TYPE_CHECKING:
    from compressor.pipeline.stages import OnStage


#: Columns of a table without a terminal.
PIPE_WIDTH = 120


@contextmanager
def working(debug: bool = False, quiet: bool = False) -> Iterator[OnStage]:
    """Show progress, from now on, unless `quiet`; warnings of libraries only with --debug.

    A terminal gets bars, a pipe or file a line a stage.  Ctrl-C and SIGTERM raise KeyboardInterrupt, at the next step
    if a library swallowed it.
    """
    stopped = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    def on_stage(stage: str, fraction: float | None, message: str) -> None:
        if stopped:
            raise KeyboardInterrupt
        if draw:
            draw(stage, fraction, message)

    with (
        warnings.catch_warnings(),
        _signals_handled(stop),
        _shown_progress(quiet or not distributed.is_main_process()) as draw,
    ):
        if not debug:
            warnings.simplefilter("ignore")
        # Heavy imports follow, which take seconds.
        on_stage(IMPORTING, None, "loading libraries")
        yield on_stage


def _shown_progress(hidden: bool) -> AbstractContextManager[ShowProgress | None]:
    if sys.stderr.isatty():
        return progress_bars(Console(stderr=True), not hidden)
    return progress_lines(print_note, not hidden)


@contextmanager
def loading() -> Iterator[None]:
    """Import without garbage collection: imported objects stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _signals_handled(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # Python lets only the main thread set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_results(*results: RenderableType) -> None:
    """Print results to stdout: lines broken between words, but commands whole, to be copied; to a pipe all whole."""
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PIPE_WIDTH)
    for result in results:
        if isinstance(result, str):
            _print_line(console, result, whole=not terminal or "compress " in result)
        else:
            console.print(result)


def _print_line(console: Console, line: str, whole: bool) -> None:
    """Print a line, broken between words unless it is to stay `whole`; nothing in it is markup."""
    console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=whole)


def print_json(values: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print JSON to stdout."""
    sys.stdout.write(json_text(values, indent=1) + "\n")


def print_note(line: str) -> None:
    """Print one line to stderr; a terminal breaks it between words."""
    if sys.stderr.isatty():
        _print_line(Console(stderr=True), line, whole=False)
    else:
        print(line, file=sys.stderr)


def print_notes(lines: Iterable[str], kind: str = "note") -> None:
    """Print lines to stderr, each after its kind."""
    for line in lines:
        print_note(f"{kind}: {line}")

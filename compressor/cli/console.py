"""How commands speak: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from compressor.report.progress import progress_bars
from compressor.utils import distributed
from compressor.utils.strict_json import json_text

if TYPE_CHECKING:
    from compressor.pipeline.progress import OnStage


#: Columns of a table where there is no terminal that limits them.
PIPE_WIDTH = 120


@contextmanager
def working(debug: bool = False) -> Iterator[OnStage]:
    """Progress on stderr while the block runs, if that is a terminal; warnings of libraries are for --debug.

    Ctrl-C and a request to terminate end the block with KeyboardInterrupt, at the next step if a library swallowed it.
    """
    stopped = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    def tell(stage: str, share: float | None, line: str) -> None:
        if stopped:
            raise KeyboardInterrupt
        if drawn:
            drawn(stage, share, line)

    with (
        warnings.catch_warnings(),
        _handling(stop),
        progress_bars(Console(stderr=True), sys.stderr.isatty() and distributed.is_main_process()) as drawn,
    ):
        if not debug:
            warnings.simplefilter("ignore")
        yield tell


@contextmanager
def loading() -> Iterator[None]:
    """For the imports of a command: what they make stays, so the garbage collector need not go through it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _handling(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
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
    """Print results to stdout; on a pipe without colours, with room for wide tables and lines that are not wrapped."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    for result in results:
        if isinstance(result, str):
            console.print(result, highlight=False, markup=False, soft_wrap=True)
        else:
            console.print(result)


def print_json(values: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON value to stdout."""
    sys.stdout.write(json_text(values, indent=1) + "\n")


def print_note(line: str) -> None:
    """One line to stderr."""
    print(line, file=sys.stderr)

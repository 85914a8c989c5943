"""Keep datasets' own bars and logs off the screen, and its errors on one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from datasets.utils import logging


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No progress bars and no log lines of datasets inside; both as they were afterwards."""
    verbosity, silent = logging.get_verbosity(), datasets.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not silent:
            datasets.enable_progress_bars()


def root_cause(error: BaseException, limit: int = 240) -> str:
    """What went wrong at the root of an exception, on one line of at most `limit` characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"

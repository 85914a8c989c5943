"""Silent libraries, and exceptions in one line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def quiet_transformers(*, errors: bool = True) -> Iterator[None]:
    """Silence transformers' progress bars and warnings, and with `errors=False` its errors."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR if errors else logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silence progress bars and logs of datasets."""
    import datasets
    from datasets.utils import logging as datasets_logging

    verbosity, bars = datasets_logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets_logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets_logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def caught_warnings(kind: type[Warning]) -> Iterator[list[str]]:
    """Collect the texts of all warnings of a kind; others are shown as before."""
    lines: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", kind)
        show = warnings.showwarning

        def collect(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            if issubclass(category, kind):
                lines.append(str(message))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = collect
        yield lines


def one_line(error: BaseException | str, limit: int = 240) -> str:
    """A text, or an exception's message or class, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def root_cause(error: BaseException, limit: int = 240) -> str:
    """`one_line` of an exception's first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, limit)

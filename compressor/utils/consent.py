"""The user's consent to run code that lies in folders of models; without it none is run, whatever their files say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_GIVEN: ContextVar[bool] = ContextVar("consent to run code of models", default=False)


@contextmanager
def code_trusted(trusted: bool) -> Iterator[None]:
    """Inside the block, and if `trusted`, or if a block around it says so, models may bring code of their own."""
    token = _GIVEN.set(_GIVEN.get() or trusted)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def is_code_trusted() -> bool:
    """Whether models may bring code of their own."""
    return _GIVEN.get()

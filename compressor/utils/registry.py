"""Tables of named entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from compressor.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind, such as "ground cost", by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry; ValueError if taken."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"the {self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """An entry; UserError with the known names if unknown."""
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} '{name}' (known: {', '.join(self.names())})")
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Names in order of registration."""
        return tuple(self._entries)

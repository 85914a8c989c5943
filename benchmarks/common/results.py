"""What was measured, in a JSON file that is whole after every figure, so that a run goes on where it stopped.

Several processes may measure different figures of one file side by side.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

Figures = dict[str, Any]
#: Setting, row, column and seed.
Cell = tuple[str, str, str, str]


class Store:
    """The figures of one table by setting, row, column and seed, or whatever else is kept by setting.

    Args:
        file: JSON; read if it is there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content: dict[str, Any] = {"settings": {}}
        self._new: set[Cell] = set()
        if file.exists():
            self.content = json.loads(file.read_text(encoding="utf-8"))

    def get(self, setting: str, row: str, column: str, seed: int) -> Figures | None:
        """What a cell has for a seed, if it was measured."""
        cells = self.content["settings"].get(setting, {}).get("cells", {})
        return cells.get(row, {}).get(column, {}).get(str(seed))

    def put(self, setting: str, row: str, column: str, seed: int, figures: Figures) -> None:
        """Keep a cell's figures for a seed."""
        self._new.add((setting, row, column, str(seed)))
        self._keep((setting, row, column, str(seed)), figures)
        self.write()

    def setting(self, name: str) -> dict[str, Any]:
        """What is kept about a setting, to be added to."""
        return self.content["settings"].setdefault(name, {})

    def write(self) -> None:
        """Write the file, beside and then in its place, with what others have measured, or measured anew, meanwhile."""
        with FileLock(self.file.with_suffix(".lock")):
            if self.file.exists():
                theirs = json.loads(self.file.read_text(encoding="utf-8"))
                for cell, figures in _cells(theirs):
                    if cell not in self._new:
                        self._keep(cell, figures)
                    else:
                        # Nothing of what was measured before stays beside what takes its place.
                        figures.clear()
                _add(self.content, theirs)
            beside = self.file.with_suffix(".part")
            beside.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(beside, self.file)
        self._new.clear()

    def _keep(self, cell: Cell, figures: Figures) -> None:
        setting, row, column, seed = cell
        cells = self.setting(setting).setdefault("cells", {})
        cells.setdefault(row, {}).setdefault(column, {})[seed] = figures


def _cells(content: dict[str, Any]) -> Iterator[tuple[Cell, Figures]]:
    for setting, kept in content["settings"].items():
        for row, columns in kept.get("cells", {}).items():
            for column, seeds in columns.items():
                for seed, figures in seeds.items():
                    yield (setting, row, column, seed), figures


def _add(own: dict[str, Any], others: dict[str, Any]) -> None:
    """Take over what is not known yet; what is known stays."""
    for key, value in others.items():
        if isinstance(value, dict) and isinstance(own.setdefault(key, {}), dict):
            _add(own[key], value)
        else:
            own.setdefault(key, value)

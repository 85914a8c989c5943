"""What was measured, in a JSON file that is whole after every figure, so that a run goes on where it stopped.

Several processes may measure different figures of one file side by side.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

Figures = dict[str, Any]


class Store:
    """The figures of one table by setting, row, column and seed, or whatever else is kept by setting.

    Args:
        file: JSON; read if it is there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content: dict[str, Any] = {"settings": {}}
        if file.exists():
            self.content = json.loads(file.read_text(encoding="utf-8"))

    def get(self, setting: str, row: str, column: str, seed: int) -> Figures | None:
        """What a cell has for a seed, if it was measured."""
        cells = self.content["settings"].get(setting, {}).get("cells", {})
        return cells.get(row, {}).get(column, {}).get(str(seed))

    def put(self, setting: str, row: str, column: str, seed: int, figures: Figures) -> None:
        """Keep a cell's figures for a seed."""
        cells = self.setting(setting).setdefault("cells", {})
        cells.setdefault(row, {}).setdefault(column, {})[str(seed)] = figures
        self.write()

    def setting(self, name: str) -> dict[str, Any]:
        """What is kept about a setting, to be added to."""
        return self.content["settings"].setdefault(name, {})

    def write(self) -> None:
        """Write the file, beside and then in its place, with what others have measured meanwhile."""
        with FileLock(self.file.with_suffix(".lock")):
            if self.file.exists():
                _add(self.content, json.loads(self.file.read_text(encoding="utf-8")))
            beside = self.file.with_suffix(".part")
            beside.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(beside, self.file)


def _add(own: dict[str, Any], others: dict[str, Any]) -> None:
    """Take over what is not known yet; what is known stays."""
    for key, value in others.items():
        if isinstance(value, dict) and isinstance(own.setdefault(key, {}), dict):
            _add(own[key], value)
        else:
            own.setdefault(key, value)

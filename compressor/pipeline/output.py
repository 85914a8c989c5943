"""The output folder: model, preprocessor, card, recipe and report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.models.card import render_card
from compressor.recipe import Recipe

REPORT = "report.json"
RECIPE = "recipe.yaml"
CARD = "README.md"


def write_documents(folder: Path, recipe: Recipe, report: Mapping[str, Any]) -> None:
    """Write the model card, the resolved recipe and the report into `folder`."""
    card = render_card(recipe, report, task=report["task"], reads=report["reads"])
    (folder / CARD).write_text(card, encoding="utf-8")
    header = "# The recipe of this folder; `compress run recipe.yaml --output NEW_FOLDER` makes it again.\n"
    paths = "# Paths in it are relative to where the command was run.\n"
    (folder / RECIPE).write_text(header + paths + recipe.to_yaml(), encoding="utf-8")
    (folder / REPORT).write_text(_json(report), encoding="utf-8")


def read_report(folder: str | Path) -> dict[str, Any]:
    """The report of a folder that a run has written.

    Raises:
        UserError: there is no such folder or no report in it, or it cannot be read.
    """
    path = Path(folder).expanduser() / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {REPORT} in {folder}: give a folder that `compress fuse` has written") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(report, dict) or not isinstance(report.get("table"), list):
        raise UserError(f"{path} is not the report of a run")
    return report


def update_report(folder: Path, values: Mapping[str, Any]) -> bool:
    """Replace entries of the report in `folder`, whole or not at all; False if the folder has no report."""
    path = folder / REPORT
    if not path.exists():
        return False
    partial = path.with_name(f".{REPORT}.partial")
    try:
        partial.write_text(_json({**read_report(folder), **values}), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

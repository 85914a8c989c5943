"""The output folder: model, preprocessor, card, recipe, report and its page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.recipe import Recipe, read_recipe

REPORT = "report.json"
PAGE = "report.html"
RECIPE = "recipe.yaml"
CARD = "README.md"


def write_documents(folder: Path, recipe: Recipe, report: Mapping[str, Any]) -> None:
    """Write the model card, the resolved recipe and the report into `folder`."""
    (folder / CARD).write_text(_card(folder, recipe, report), encoding="utf-8")
    header = "# The recipe of this folder; `compress run recipe.yaml --output NEW_FOLDER` makes it again.\n"
    paths = "# Paths in it are relative to where the command was run.\n"
    (folder / RECIPE).write_text(header + paths + recipe.to_yaml(), encoding="utf-8")
    (folder / REPORT).write_text(_json(report), encoding="utf-8")


def _card(folder: Path, recipe: Recipe, report: Mapping[str, Any]) -> str:
    # Here, since tasks of models bring torch and transformers: a report is read without.
    from compressor.report.card import render_card
    from compressor.report.onnx_example import onnx_example

    example = onnx_example(folder, report["task"]) if report.get("onnx") else None
    return render_card(recipe, report, task=report["task"], reads=report["reads"], example=example)


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


def write_page(folder: str | Path) -> Path:
    """Write the page of a folder's report anew, whole or not at all.

    Returns:
        Its path.

    Raises:
        UserError: there is no report that could be read, or the folder cannot be written to.
    """
    # Here, since its pictures of couplings bring torch.
    from compressor.report.page.page import render_page

    report, path = read_report(folder), Path(folder).expanduser() / PAGE
    try:
        page = render_page(report)
    except KeyError as error:
        raise UserError(f"{folder}/{REPORT} has no {error}: it is not the report of a whole run") from None
    try:
        _replace(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def update_report(folder: Path, values: Mapping[str, Any]) -> bool:
    """Replace entries of a folder's report, whole or not at all, and its card and page; False if there is no report."""
    path = folder / REPORT
    if not path.exists():
        return False
    report = {**read_report(folder), **values}
    _replace(path, _json(report))
    # A former version may have written the recipe in other terms: then the card stays as it is.
    with suppress(UserError):
        if (folder / CARD).exists():
            _replace(folder / CARD, _card(folder, read_recipe(folder / RECIPE), report))
    if (folder / PAGE).exists():
        write_page(folder)
    return True


def _replace(path: Path, text: str) -> None:
    """Write a file beside its place, and then put it there."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

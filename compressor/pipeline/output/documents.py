"""The output folder and its documents."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.recipe import Recipe, read_recipe
from compressor.utils.files import atomic_write_text, check_file
from compressor.utils.input_files import MIB, read_json
from compressor.utils.strict_json import json_text

#: Largest report that is read; those of runs have some 100 kB.
REPORT_BYTES = 64 * MIB
REPORT = "report.json"
PAGE = "report.html"
RECIPE = "recipe.yaml"
CARD = "README.md"


def write_documents(folder: Path, recipe: Recipe, report: Mapping[str, Any], *, paths: bool = True) -> None:
    """Write card, recipe (without local paths unless `paths`) and report."""
    (folder / CARD).write_text(_card(folder, recipe, report), encoding="utf-8")
    header = "# The recipe of this folder; `compress run recipe.yaml --output NEW_FOLDER` makes it again.\n"
    note = "Paths in it are relative to where the command was run." if paths else "Names in it stand for local paths."
    (folder / RECIPE).write_text(f"{header}# {note}\n" + recipe.to_yaml(), encoding="utf-8")
    (folder / REPORT).write_text(_json(report), encoding="utf-8")


def _card(folder: Path, recipe: Recipe, report: Mapping[str, Any]) -> str:
    # Imported here: models' tasks bring torch, which reading a report does not need.
    from compressor.report.card import render_card
    from compressor.report.onnx_example import onnx_example

    example = onnx_example(folder, report["task"]) if report.get("onnx") else None
    return render_card(
        recipe, report, task=report["task"], reads=report["reads"], encoder=_is_encoder(folder), example=example
    )


def _is_encoder(folder: Path) -> bool:
    """Whether the model in a folder is the encoder alone of a type that has a decoder too (T5EncoderModel)."""
    try:
        config = read_json(folder / "config.json", REPORT_BYTES)
    except (OSError, ValueError, UserError):
        return False
    return any(name.endswith("EncoderModel") for name in config.get("architectures") or ())


def read_report(folder: str | Path) -> dict[str, Any]:
    """The report in a run's output; UserError without a readable one."""
    path = Path(folder).expanduser() / REPORT
    try:
        report = read_json(path, REPORT_BYTES)
    except FileNotFoundError:
        raise UserError(f"no {REPORT} in {folder}: give a folder that `compress fuse` has written") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(report, dict) or not isinstance(report.get("table"), list):
        raise UserError(f"{path} is not the report of a run")
    return report


def write_page(folder: str | Path) -> Path:
    """Write the page of a folder's report, whole or not at all; its path.

    Raises:
        UserError: no readable report, or an unwritable folder.
    """
    # Imported here: its pictures of couplings bring torch.
    from compressor.report.page.page import render_page

    report, path = read_report(folder), Path(folder).expanduser() / PAGE
    try:
        page = render_page(report)
    except KeyError as error:
        raise UserError(f"{folder}/{REPORT} has no {error}: it is not the report of a whole run") from None
    try:
        check_file(path, force=True)
        atomic_write_text(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def edited_documents(folder: Path) -> list[Path]:
    """Card and page that the user has edited."""

    def card() -> str:
        return _card(folder, read_recipe(folder / RECIPE), read_report(folder))

    from compressor.report.page.page import render_page

    def page() -> str:
        return render_page(read_report(folder))

    edited = []
    for name, written in ((CARD, card), (PAGE, page)):
        path = folder / name
        # Report and recipe may be of a former version.
        with suppress(UserError, OSError, ValueError, KeyError):
            if not path.exists() or path.read_text(encoding="utf-8") == written():
                continue
        edited.append(path)
    return edited


def update_report(folder: Path, values: Mapping[str, Any], edited: Collection[Path] = ()) -> bool:
    """Replace entries of a report, and rewrite card and page except `edited`; False without a report."""
    path = folder / REPORT
    if not path.exists():
        return False
    report = {**read_report(folder), **values}
    atomic_write_text(path, _json(report))
    # A former version's recipe leaves the card unchanged.
    with suppress(UserError):
        if (folder / CARD).exists() and folder / CARD not in edited:
            atomic_write_text(folder / CARD, _card(folder, read_recipe(folder / RECIPE), report))
    if (folder / PAGE).exists() and folder / PAGE not in edited:
        write_page(folder)
    return True


def _json(values: Mapping[str, Any]) -> str:
    return json_text(values, indent=1) + "\n"

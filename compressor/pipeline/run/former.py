"""Outputs of former runs, which may be replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from compressor.errors import UserError
from compressor.export.file_kinds import NAMES
from compressor.layer_maps import LAYER_MAPS_FILE as TRANSPORT
from compressor.models.inherited.companion_files import LICENCE_NAMES, MODULE_FOLDER, PROCESSOR_NAMES, SENTENCE_NAMES
from compressor.pipeline.output.documents import CARD, PAGE, RECIPE, REPORT, REPORT_BYTES
from compressor.utils.input_files import read_json
from compressor.utils.scratch import is_scratch

#: Files of a model in transformers, without numbered parts of its weights.
_MODEL = {"config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"}
_PART = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
#: Files of preprocessors, and others taken over from teachers.
_PROCESSOR = PROCESSOR_NAMES | SENTENCE_NAMES | LICENCE_NAMES
#: {folder inside the output: files that a run or an export writes}.
_NAMES = {
    ".": {CARD, RECIPE, REPORT, PAGE, TRANSPORT} | _MODEL | _PROCESSOR,
    "onnx": {f"{name}{end}" for name in NAMES for end in ("", ".data")} | _MODEL | _PROCESSOR,
    "bfloat16": _MODEL | _PROCESSOR,
    "float16": _MODEL | _PROCESSOR,
    "torch": {str(Path(name).with_suffix(".pt2")) for name in NAMES},
    "additional_chat_templates": set(),
}

#: Folders with modules of sentence-transformers.
_HOLD_MODULES = (Path(), Path("onnx"))


def check_former(folder: Path) -> None:
    """Refuse to replace a folder unless it is empty or only a run's output.

    A recipe.yaml proves nothing: users copy it.

    Raises:
        UserError: other files, or no report.
    """
    if not any(folder.iterdir()):
        return
    if not _is_report(folder / REPORT):
        raise UserError(
            f"{folder} is not the output of a former run (it has no {REPORT} of one), so it is not replaced: "
            "choose another output, or remove it by hand"
        )
    if (foreign := next(_foreign_files(folder, _code(folder / REPORT)), None)) is not None:
        raise UserError(
            f"{folder} holds {foreign}, which no run has written, so it is not replaced: move that away, or choose "
            "another output"
        )


def _is_report(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        report = read_json(path, REPORT_BYTES)
        return isinstance(report["table"], list) and isinstance(report["recipe"], dict) and "version" in report
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _code(report: Path) -> frozenset[str]:
    """Names of files with code that teachers brought, as the report of a run has them."""
    names = (read_json(report, REPORT_BYTES).get("student") or {}).get("code") or ()
    return frozenset(str(name) for name in names)


def _foreign_files(folder: Path, code: frozenset[str]) -> Iterator[str]:
    """Paths that no run has written; `code`: names of files with a student's code."""
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        # Left by a killed export.
        folders[:] = sorted(name for name in folders if not is_scratch(Path(place, name)))
        for name in sorted((*folders, *(name for name in files if name not in code))):
            if Path(place, name).is_symlink() or not _is_ours(inside, name, name in folders):
                yield str(inside / name)


def _is_ours(inside: Path, name: str, is_folder: bool) -> bool:
    if is_folder:
        return (inside == Path() and name in _NAMES) or (inside in _HOLD_MODULES and _is_module(name))
    if inside.parent in _HOLD_MODULES and _is_module(inside.name):
        return name == "config.json"
    if inside == Path("additional_chat_templates"):
        return name.endswith(".jinja")
    return name in _NAMES.get(str(inside), ()) or (inside == Path() and _PART.fullmatch(name) is not None)


def _is_module(name: str) -> bool:
    return MODULE_FOLDER.fullmatch(name) is not None

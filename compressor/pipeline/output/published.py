"""A finished folder without samples of the user's data, and without local paths, in its documents."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.models.builtin import BUILTIN
from compressor.pipeline.output.documents import CARD, PAGE, RECIPE, REPORT, read_report, write_documents, write_page
from compressor.recipe import Recipe

#: An absolute path of two parts or more, or one below a home folder.
_PATH = re.compile(r"""(?<![\w:/.\\~-])~?(?:/[^\s/'"`,;:()<>|]+){2,}/?""")


@contextmanager
def published(folder: str | Path, *, paths: bool = False) -> Iterator[Path]:
    """A temporary copy of a folder whose documents show no samples of the data; other files are links.

    Args:
        paths: keep local paths in the documents.

    Raises:
        UserError: no report of a run.
    """
    folder = Path(folder).expanduser()
    report = without_samples(read_report(folder))
    if not paths:
        report = without_paths(report)
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        copy = Path(scratch, folder.name)
        for path in sorted(folder.rglob("*")):
            place = copy / path.relative_to(folder)
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif path.name not in (CARD, PAGE, RECIPE, REPORT) or path.parent != folder:
                _link(path, place)
        write_documents(copy, Recipe.model_validate(report["recipe"]), report, paths=paths)
        write_page(copy)
        yield copy


def without_samples(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without samples of the evaluation data."""
    differences = report.get("differences")
    return {**report, "differences": differences and {**differences, "samples": []}}


def without_paths(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report with local paths cut to their last parts."""
    labels = _labels(_names(report["recipe"]))
    spellings = {spelling: label for name, label in labels.items() for spelling in _spellings(name)}
    # The longest first: one may be the beginning of another.
    alternatives = "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))
    known = re.compile(rf"(?<![\w./~-])(?:{alternatives})(?![\w-])")

    def shorten(text: str) -> str:
        if text in labels:
            return labels[text]
        text = known.sub(lambda match: spellings[match[0]], text)
        return _PATH.sub(lambda match: Path(match[0]).name, text)

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return shorten(value)
        if isinstance(value, Mapping):
            return {shorten(str(key)): clean(item) for key, item in value.items()}
        return [clean(item) for item in value] if isinstance(value, list | tuple) else value

    return dict(clean(report))


def _names(recipe: Mapping[str, Any]) -> Iterator[str]:
    """All local paths of a recipe."""
    sources = (recipe["data"].get("source") or "").split(",")
    more = (recipe.get("student"), recipe["fusion"].get("anchor"), recipe["finetune"].get("tensorboard"))
    yield recipe["output"]
    for name in (*recipe["teachers"], *sources, *more):
        if name and name.strip() and is_local(name.strip()):
            yield name.strip()


def is_local(name: str) -> bool:
    """Whether a name is a local path."""
    if name in BUILTIN:
        return False
    return name.startswith((".", "~", os.sep)) or bool(re.search(r"[*?\[]", name)) or Path(name).exists()


def hub_dataset(source: str | None) -> str | None:
    """The Hub's name of data that was read, None if the data is local or built in."""
    # Imported here: the library datasets loads slowly.
    from compressor.data.source_splits import BUILTIN_DATA

    if source is None or source in BUILTIN_DATA or is_local(source) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return None
    return source


def _labels(names: Iterable[str]) -> dict[str, str]:
    """{path: its last part, numbered if not unique}."""
    labels: dict[str, str] = {}
    # Names without folders first: they stay, as they may be ordinary words.
    for name in sorted(names, key=lambda name: os.sep in name):
        if name not in labels:
            last = Path(os.path.abspath(os.path.expanduser(name))).name or "folder"
            count = sum(label == last or label.startswith(f"{last} (") for label in labels.values())
            labels[name] = f"{last} ({count + 1})" if count else last
    return labels


def _spellings(name: str) -> set[str]:
    """All spellings of a path that contain folders."""
    path = os.path.expanduser(name)
    return {spelling for spelling in (name, path, os.path.abspath(path), os.path.realpath(path)) if os.sep in spelling}


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(path.resolve())
    except OSError:
        shutil.copy2(path, place)

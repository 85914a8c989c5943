"""What others are given of a finished folder: the same files, with names for local paths in its documents."""

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
from compressor.pipeline.output import CARD, PAGE, RECIPE, REPORT, read_report, write_documents, write_page
from compressor.recipe import Recipe

#: An absolute path of two parts or more, or one below a home folder.
_PATH = re.compile(r"""(?<![\w:/.\\~-])~?(?:/[^\s/'"`,;:()<>|]+){2,}/?""")


@contextmanager
def published(folder: str | Path) -> Iterator[Path]:
    """A temporary folder with the files of a finished one, whose card, recipe, report and page hold no local paths.

    Large files are links, so that nothing is copied.

    Raises:
        UserError: the folder has no report of a run.
    """
    folder = Path(folder).expanduser()
    report = without_paths(read_report(folder))
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        copy = Path(scratch, folder.name)
        for path in sorted(folder.rglob("*")):
            place = copy / path.relative_to(folder)
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif path.name not in (CARD, PAGE, RECIPE, REPORT) or path.parent != folder:
                _link(path, place)
        write_documents(copy, Recipe.model_validate(report["recipe"]), report, paths=False)
        write_page(copy)
        yield copy


def without_paths(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report in which the last parts of local paths stand for them, in keys and values; names of the Hub stay."""
    labels = _labels(_names(report["recipe"]))
    spellings = {spelling: label for name, label in labels.items() for spelling in _spellings(name)}
    # The longest first: one may begin another.
    alternatives = "|".join(re.escape(one) for one in sorted(spellings, key=len, reverse=True))
    known = re.compile(rf"(?<![\w./~-])(?:{alternatives})(?![\w-])")

    def shorten(text: str) -> str:
        if text in labels:
            return labels[text]
        text = known.sub(lambda found: spellings[found[0]], text)
        return _PATH.sub(lambda found: Path(found[0]).name, text)

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return shorten(value)
        if isinstance(value, Mapping):
            return {shorten(str(key)): clean(item) for key, item in value.items()}
        return [clean(item) for item in value] if isinstance(value, list | tuple) else value

    return dict(clean(report))


def _names(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Whatever in a recipe may be a local path, each part of a list of files by itself."""
    sources = (recipe["data"].get("source") or "").split(",")
    others = (recipe.get("student"), recipe["fusion"].get("anchor"), recipe["finetune"].get("tensorboard"))
    yield recipe["output"]
    for name in (*recipe["teachers"], *sources, *others):
        if name and name.strip() and is_local(name.strip()):
            yield name.strip()


def is_local(name: str) -> bool:
    """Whether a name of a model, of data or of a folder is a path, and not built in or of the Hub."""
    if name in BUILTIN:
        return False
    return name.startswith((".", "~", os.sep)) or bool(re.search(r"[*?\[]", name)) or Path(name).exists()


def _labels(names: Iterable[str]) -> dict[str, str]:
    """The last part of each path, and a number where another one ends alike."""
    labels: dict[str, str] = {}
    # Names without folders first: they stay, in sentences too, where they may be ordinary words.
    for name in sorted(names, key=lambda name: os.sep in name):
        if name not in labels:
            last = Path(os.path.abspath(os.path.expanduser(name))).name or "folder"
            count = sum(label == last or label.startswith(f"{last} (") for label in labels.values())
            labels[name] = f"{last} ({count + 1})" if count else last
    return labels


def _spellings(name: str) -> set[str]:
    """How messages write a path, other than without folders."""
    path = os.path.expanduser(name)
    return {one for one in (name, path, os.path.abspath(path), os.path.realpath(path)) if os.sep in one}


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(path.resolve())
    except OSError:
        shutil.copy2(path, place)

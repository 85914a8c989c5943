"""Inputs of a command must not overlap with its output."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from compressor.data.source_splits import BUILTIN_DATA
from compressor.errors import UserError
from compressor.models.builtin import BUILTIN, builtin_data, builtin_folder
from compressor.recipe import Recipe
from compressor.utils.revisions import split_revision

#: Most links followed, as in Linux.
_MOST_LINKS = 40


@dataclass(frozen=True)
class Input:
    """A file or folder that a command reads.

    Attributes:
        meaning: for messages.
        path: may be missing.
        written: also written into.
    """

    meaning: str
    path: Path
    written: bool = False


def model_inputs(names: Iterable[str], role: str = "model") -> list[Input]:
    """Places of models, without the Hub."""
    return [Input(f"the {role} {name}", place) for name in names for place in _places(name, "model")]


def recipe_inputs(recipe: Recipe, file: str | Path | None = None, role: str = "teacher") -> list[Input]:
    """All inputs of a run, and its logs; `role` names the models in messages."""
    inputs = model_inputs(recipe.teachers, role)
    if recipe.student is not None:
        inputs += model_inputs([recipe.student], "student")
    if recipe.fusion.anchor is not None:
        inputs += model_inputs([recipe.fusion.anchor], "anchor")
    source = recipe.data.source
    if source is None and all(name in BUILTIN for name in recipe.teachers):
        source = builtin_data(recipe.teachers[0])
    if source is not None:
        inputs += [Input(f"the data {source}", path) for path in _data_places(source)]
    if file is not None:
        inputs.append(Input(f"the recipe {file}", _local(str(file))))
    if recipe.finetune.tensorboard is not None:
        logs = recipe.finetune.tensorboard
        inputs.append(Input(f"the TensorBoard logs {logs}", _local(logs), written=True))
    return inputs


def check_apart(output: Path, inputs: Iterable[Input]) -> None:
    """Refuse an output that is, contains or lies inside an input, links followed.

    Raises:
        UserError: names the input.
    """
    try:
        for entry in inputs:
            _check_apart(output, entry)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot tell where {output} leads: {error}") from None


def _check_apart(output: Path, entry: Input) -> None:
    remedy = (
        "choose an output apart from what is read" if not entry.written else "choose another folder for one of them"
    )
    *links, place = _resolve_links(entry.path)
    *_, written = _resolve_links(output)
    if _same(written, place):
        raise UserError(f"{output} is {entry.meaning}: {remedy}")
    if not entry.written and any(_same(parent, place) for parent in written.parents):
        raise UserError(f"{output} lies inside {entry.meaning}: {remedy}")
    if not entry.written and any(
        _same(parent, folder) for folder in _linked_folders(place) for parent in (written, *written.parents)
    ):
        raise UserError(f"{output} lies inside {entry.meaning}, by a link in it: {remedy}")
    ways = [*links, place]
    if written.exists() and place.is_dir():
        ways += [step for link in _links_below(place) for step in _resolve_links(link)]
    if any(_same(parent, written) for step in ways for parent in step.parents):
        raise UserError(f"{output} holds {entry.meaning}: {remedy}")


def _resolve_links(path: Path) -> list[Path]:
    """Real paths of the links on the way, and of the path."""
    path = path.expanduser().absolute()
    links: list[Path] = []
    here, rest = Path(path.anchor), list(reversed(path.parts[1:]))
    while rest:
        part = rest.pop()
        step = here.parent if part == ".." else here / part
        if not step.is_symlink():
            here = step
            continue
        links.append(step)
        if len(links) > _MOST_LINKS:
            raise OSError(f"too many links on the way to {path}")
        target = step.readlink()
        if target.is_absolute():
            here, target = Path(target.anchor), target.relative_to(target.anchor)
        rest += reversed(target.parts)
    return [*links, here]


def _links_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(place, name)).is_symlink())


def _linked_folders(folder: Path) -> Iterator[Path]:
    """Real paths of the folders that links below a folder lead to, and links below those."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting:
        for place, folders, _ in os.walk(waiting.pop()):
            paths = (Path(place, name) for name in folders)
            targets = {Path(os.path.realpath(path)) for path in paths if path.is_symlink()} - seen
            yield from targets
            seen |= targets
            waiting += targets


def _same(first: Path, second: Path) -> bool:
    """Whether the file system has both paths as one file (letter case, bind mounts)."""
    try:
        return first == second or os.path.samefile(first, second)
    except (OSError, ValueError):
        return False


def _places(name: str, kind: str) -> list[Path]:
    """A local path, or the cache of a built-in or Hub name."""
    path = _local(name)
    if os.path.lexists(path):
        return [path]
    if kind == "model" and name in BUILTIN:
        return [builtin_folder(name)]
    try:
        return [Path(HF_HUB_CACHE, repo_folder_name(repo_id=split_revision(name)[0], repo_type=kind))]
    except HFValidationError:
        # Reading it will fail with a message.
        return []


def _data_places(source: str) -> list[Path]:
    """Places of a source, as `find_splits` reads it."""
    if os.path.lexists(_local(source)):
        return [_local(source)]
    if source in BUILTIN_DATA:
        return []
    listed = [Path(name) for part in source.split(",") for name in glob.glob(os.path.expanduser(part.strip()))]
    return listed or _places(source, "dataset")


def _local(name: str) -> Path:
    # Path.expanduser fails for unknown users.
    return Path(os.path.expanduser(name))

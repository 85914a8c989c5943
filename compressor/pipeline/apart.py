"""What a command reads, kept apart from where it writes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from compressor.data.files import BUILTIN_DATA
from compressor.errors import UserError
from compressor.models.builtin import BUILTIN, builtin_data, builtin_folder
from compressor.recipe import Recipe

#: Links that are followed on the way to a path, as Linux does.
_MOST_LINKS = 40


@dataclass(frozen=True)
class Input:
    """A file or folder that must not go.

    Attributes:
        meaning: what it is, for messages.
        path: where; it need not exist yet.
        written: whether it is written too, so that others may write into it.
    """

    meaning: str
    path: Path
    written: bool = False


def model_inputs(names: Iterable[str], role: str = "model") -> list[Input]:
    """Where models are read from, by their names; nothing is looked up on the Hub."""
    return [Input(f"the {role} {name}", place) for name in names for place in _places(name, "model")]


def recipe_inputs(recipe: Recipe, file: str | Path | None = None, role: str = "teacher") -> list[Input]:
    """All that a run of a recipe reads, and its logs.

    Args:
        recipe: of the run.
        file: that the recipe was read from.
        role: what its models are, for messages.
    """
    found = model_inputs(recipe.teachers, role)
    if recipe.student is not None:
        found += model_inputs([recipe.student], "student")
    if recipe.fusion.anchor is not None:
        found += model_inputs([recipe.fusion.anchor], "anchor")
    source = recipe.data.source
    if source is None and all(name in BUILTIN for name in recipe.teachers):
        source = builtin_data(recipe.teachers[0])
    if source is not None:
        found += [Input(f"the data {source}", path) for path in _data_places(source)]
    if file is not None:
        found.append(Input(f"the recipe {file}", _local(str(file))))
    if recipe.finetune.tensorboard is not None:
        logs = recipe.finetune.tensorboard
        found.append(Input(f"the TensorBoard logs {logs}", _local(logs), written=True))
    return found


def check_apart(output: Path, inputs: Iterable[Input]) -> None:
    """Refuse an output that is, holds or lies inside anything that is read, wherever links lead.

    Raises:
        UserError: it names what is read.
    """
    try:
        for entry in inputs:
            _check_apart(output, entry)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot tell where {output} leads: {error}") from None


def _check_apart(output: Path, entry: Input) -> None:
    asked = "choose an output apart from what is read" if not entry.written else "choose another folder for one of them"
    *links, place = _way(entry.path)
    *_, written = _way(output)
    if _same(written, place):
        raise UserError(f"{output} is {entry.meaning}: {asked}")
    if not entry.written and any(_same(parent, place) for parent in written.parents):
        raise UserError(f"{output} lies inside {entry.meaning}: {asked}")
    ways = [*links, place]
    if written.exists() and place.is_dir():
        ways += [step for link in _links_below(place) for step in _way(link)]
    if any(_same(parent, written) for step in ways for parent in step.parents):
        raise UserError(f"{output} holds {entry.meaning}: {asked}")


def _way(path: Path) -> list[Path]:
    """The links on the way to a path, each by its real place, and where it ends."""
    path = path.expanduser().absolute()
    found: list[Path] = []
    here, rest = Path(path.anchor), list(reversed(path.parts[1:]))
    while rest:
        part = rest.pop()
        step = here.parent if part == ".." else here / part
        if not step.is_symlink():
            here = step
            continue
        found.append(step)
        if len(found) > _MOST_LINKS:
            raise OSError(f"too many links on the way to {path}")
        target = step.readlink()
        if target.is_absolute():
            here, target = Path(target.anchor), target.relative_to(target.anchor)
        rest += reversed(target.parts)
    return [*found, here]


def _links_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(place, name)).is_symlink())


def _same(one: Path, other: Path) -> bool:
    """Whether two real paths are one place; the file system is asked, for names in other cases and bind mounts."""
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _places(name: str, kind: str) -> list[Path]:
    """A local path, a built-in teacher's cache, or the cache of a name of the Hub; none of what is no such name."""
    path = _local(name)
    if os.path.lexists(path):
        return [path]
    if kind == "model" and name in BUILTIN:
        return [builtin_folder(name)]
    try:
        return [Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type=kind))]
    except HFValidationError:
        # Whoever reads it says that there is nothing of that name.
        return []


def _data_places(source: str) -> list[Path]:
    """As `compressor.data.files.find_splits` reads a source."""
    if os.path.lexists(_local(source)):
        return [_local(source)]
    if source in BUILTIN_DATA:
        return []
    listed = [Path(name) for part in source.split(",") for name in glob.glob(os.path.expanduser(part.strip()))]
    return listed or _places(source, "dataset")


def _local(name: str) -> Path:
    # Not Path.expanduser, which fails for users that there are not.
    return Path(os.path.expanduser(name))

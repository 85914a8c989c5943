"""Checks of names that need no heavy import, so that a slip is answered at once; later ones look at everything."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from compressor.errors import UserError
from compressor.recipe import Recipe
from compressor.utils.files import check_output, whole_path
from compressor.utils.revisions import split_revision
from compressor.wording import shorten

#: One of them is in every folder of a model, or of an adapter, which has a line of its own.
_MODEL_FILES = {"config.json", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"}


def check_job_early(recipe: Recipe, force: bool, file: str | None = None) -> None:
    """Refuse missing folders, and an output that exists.

    Args:
        file: of the recipe.

    Raises:
        UserError: as later checks would.
    """
    check_inputs_early(recipe)
    models = (*recipe.teachers, recipe.student, recipe.fusion.anchor)
    # An output that is or overlaps with an input, or is to be replaced, gets a line of its own later.
    if not force and not _overlaps(recipe.output, [*models, recipe.data.source, file]):
        check_output(recipe.output)


def check_inputs_early(recipe: Recipe) -> None:
    """Refuse models and data that are missing.

    Raises:
        UserError: names the first.
    """
    models = (*recipe.teachers, recipe.student, recipe.fusion.anchor)
    check_models_early(name for name in models if name is not None)
    _check_data(recipe.data.source)


def check_models_early(names: Iterable[str]) -> None:
    """Refuse names that can only be paths, where there is nothing, and folders that hold no model.

    Raises:
        UserError: names the folder.
    """
    for name in names:
        place, _ = split_revision(name)
        # ONNX files have a line of their own.
        if _is_path(place) and not place.endswith(".onnx") and not os.path.lexists(os.path.expanduser(place)):
            raise UserError(
                f"no model '{shorten(name)}': no such folder, not a built-in teacher (vit-a, vit-b), and it is no "
                "valid Hub id"
            )
        if os.path.isdir(folder := os.path.expanduser(name)) and not _MODEL_FILES & set(os.listdir(folder)):
            raise UserError(f"no config.json in {name}: a model is a folder with config.json and weights")


def _check_data(source: str | None) -> None:
    if source is None or not _is_path(source) or any(sign in source for sign in ",*?["):
        return
    if not os.path.lexists(os.path.expanduser(source)):
        raise UserError(f"no data at {source}: there is no such file or folder")


def _is_path(name: str) -> bool:
    """Whether a name cannot be one of the Hub."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1


def _overlaps(output: str, inputs: Iterable[str | None]) -> bool:
    """Whether an output is, holds or lies in an input, by any spelling or link of either."""
    written = _spellings(str(whole_path(output)))
    read = [
        path for name in inputs if name is not None for part in name.split(",") for path in _spellings(part.strip())
    ]
    return any(
        first == second or first in second.parents or second in first.parents for first in written for second in read
    )


def _spellings(name: str) -> list[Path]:
    """A path with and without its links; of a pattern, the folder in which it begins."""
    path = os.path.expanduser(name)
    while any(sign in path for sign in "*?["):
        path = os.path.dirname(path)
    return [Path(os.path.abspath(path)), Path(os.path.realpath(path))]

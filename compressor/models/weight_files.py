"""The files that a model's weights are read from: that they are there, are safetensors, and stay what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import UserError
from compressor.utils.logging import one_line

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"


def check_weight_files(folder: Path) -> None:
    """Refuse a folder that does not hold all of its weights as safetensors.

    Args:
        folder: of a model.

    Raises:
        UserError: there are none, they are pickled, or the index of several files is unreadable or names a file that
            is missing, is not safetensors or lies elsewhere.
    """
    if not (folder / _WHOLE).is_file() and (folder / _INDEX).is_file():
        _check_index(folder / _INDEX)
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise UserError(f"{folder} has pickled weights only: save them again as safetensors (save_pretrained does)")
    raise UserError(f"no weights in {folder}: expected {_WHOLE}")


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Refuse weights and configs that somebody writes to while the block reads them.

    Args:
        folder: of a model.

    Raises:
        UserError: a file was replaced, written to or removed; names it.
    """
    before = _states(folder)
    yield
    after = _states(folder)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise UserError(f"{folder / name} changed while it was read: run again once nothing writes to it")


def copy_out_of_files(model: nn.Module) -> None:
    """Give every weight memory of its own, one after the other, in place.

    Transformers leaves weights mapped to their file, of which pages are read when they are first used, and again
    after the system has dropped them: a file that is overwritten would change the model, one that is cut would end the
    process.

    Args:
        model: on the CPU; weights that are shared stay so.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()


def _check_index(path: Path) -> None:
    for name in sorted({str(name) for name in _weight_map(path).values()}):
        inside = Path(name).name == name
        if not inside or not name.endswith(".safetensors"):
            what = "is not safetensors" if inside else "is not a file of this folder"
            raise UserError(
                f"{path} is broken: it names {one_line(repr(name), 80)}, which {what}; save the model again"
            )
        if not (path.parent / name).is_file():
            raise UserError(f"cannot read the weights of {path.parent}: {name}, which {path.name} names, is missing")


def _weight_map(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path} is broken: it has no weight_map that says which file holds which weight")
    return names


def _states(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes with a file's content: device, inode, size, and when content and inode were last changed."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (*folder.glob("*.safetensors"), folder / _INDEX, folder / "config.json"):
        try:
            state = path.stat()
        except OSError:
            continue
        found[path.name] = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return found

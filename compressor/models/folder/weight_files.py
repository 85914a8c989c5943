"""Weight files must be complete, safetensors, and unchanged while read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import nn

from compressor.errors import UserError
from compressor.models.configs.adapters import ADAPTER_WEIGHTS
from compressor.models.configs.bounds import FILE_BYTES
from compressor.models.configs.quantised import check_stored_types
from compressor.utils.input_files import read_json
from compressor.utils.logging import one_line
from compressor.utils.revisions import split_revision

_SINGLE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
#: {name in safetensors: precision}.
_PRECISIONS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def check_weight_files(folder: Path) -> None:
    """Refuse a folder without all of its weights as safetensors.

    Raises:
        UserError: weights missing, pickled or quantised, or an index unreadable or with wrong files.
    """
    if not (folder / _SINGLE_FILE).is_file() and (folder / _INDEX).is_file():
        _check_index(folder / _INDEX)
    if files := list(folder.glob("*.safetensors")):
        check_stored_types(folder, [path for path in files if not ADAPTER_WEIGHTS.fullmatch(path.name)])
        return
    if any(folder.glob("*.bin")):
        raise UserError(f"{folder} has pickled weights only: save them again as safetensors (save_pretrained does)")
    if any(folder.glob("*.gguf")):
        raise UserError(f"{folder} holds GGUF weights only: give the full-precision model, as safetensors")
    raise UserError(f"no weights in {folder}: expected {_SINGLE_FILE}")


def stored_files(folder: Path) -> dict[str, Path]:
    """{stored weight: its file}, of a folder that `check_weight_files` accepts."""
    if not (folder / _SINGLE_FILE).is_file():
        return {name: folder / str(file) for name, file in _weight_map(folder / _INDEX).items()}
    with safe_open(folder / _SINGLE_FILE, framework="pt") as file:
        return dict.fromkeys(file.keys(), folder / _SINGLE_FILE)


def stored_precision(location: str | Path) -> torch.dtype:
    """The lowest precision that represents all weights of a folder, or of files of the Hub that are here."""
    folder = Path(location)
    if not folder.is_dir():
        name, revision = split_revision(str(location))
        held = (try_to_load_from_cache(name, file, revision=revision) for file in (_SINGLE_FILE, _INDEX))
        known = next((path for path in held if isinstance(path, str)), None)
        if known is None:
            return torch.float32
        folder = Path(known).parent
    files = stored_files(folder)
    kinds = set()
    for path in set(files.values()):
        with safe_open(path, framework="pt") as file:
            kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    precisions = [_PRECISIONS[kind] for kind in kinds if kind in _PRECISIONS]
    return reduce(torch.promote_types, precisions) if precisions else torch.float32


@contextmanager
def check_unchanged(folder: Path) -> Iterator[None]:
    """Refuse weights and configs that change while the block reads them.

    Raises:
        UserError: names a file replaced, written or removed.
    """
    before = _file_states(folder)
    yield
    after = _file_states(folder)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise UserError(f"{folder / name} changed while it was read: run again once nothing writes to it")


def copy_out_of_files(model: nn.Module) -> None:
    """Copy CPU weights into their own memory, one by one, in place; shared ones stay shared.

    Mapped pages may be read again: overwriting the file would change the model, shortening it end the process.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()


def _check_index(path: Path) -> None:
    for name in sorted({str(name) for name in _weight_map(path).values()}):
        inside = Path(name).name == name
        if not inside or not name.endswith(".safetensors"):
            problem = "is not safetensors" if inside else "is not a file of this folder"
            raise UserError(
                f"{path} is broken: it names {one_line(repr(name), 80)}, which {problem}; save the model again"
            )
        if not (path.parent / name).is_file():
            raise UserError(f"cannot read the weights of {path.parent}: {name}, which {path.name} names, is missing")


def _weight_map(path: Path) -> dict[str, Any]:
    try:
        index = read_json(path, FILE_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from None
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path} is broken: it has no weight_map that says which file holds which weight")
    return names


def _file_states(folder: Path) -> dict[str, tuple[int, ...]]:
    """{file: device, inode, size, times}; differs if the content does."""
    states: dict[str, tuple[int, ...]] = {}
    for path in (*folder.glob("*.safetensors"), folder / _INDEX, folder / "config.json"):
        try:
            state = path.stat()
        except OSError:
            continue
        states[path.name] = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return states

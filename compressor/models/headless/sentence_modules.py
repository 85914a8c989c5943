"""The modules of a sentence-transformers folder: read and written in the form that all its versions know."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from compressor.errors import UserError
from compressor.models.headless.sentence_pooling import (
    LEGACY_MODES,
    MODULES_FILE,
    PROJECTION,
    SentencePooling,
    SentenceProjection,
    file_of,
    pooling_of,
    projection_of,
)
from compressor.utils.logging import one_line

#: Folder of the linear map in what is written.
PROJECTION_FOLDER = "2_Dense"
_FOLDER, _WEIGHTS = re.compile(r"\d+_[A-Za-z]+"), "model.safetensors"
_TYPES = "sentence_transformers.models"


def read_projection(location: str | Path, model: PreTrainedModel) -> None:
    """Give a sentence-embedding model the linear map that its config names.

    Raises:
        UserError: it is missing, unreadable or of another width.
    """
    pooling = pooling_of(model.config)
    if pooling is None or pooling.projection is None:
        return
    name = f"{pooling.projection}/{_WEIGHTS}"
    path = file_of(location, name) if _FOLDER.fullmatch(pooling.projection) else None
    if path is None:
        raise UserError(f"{location} has no {name}, the linear map after its pooling: save it again as safetensors")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read the weights of {path}: {one_line(error)}") from None
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    width = model.config.hidden_size
    if weight is None or weight.dim() != 2 or weight.shape[1] != width or not bool(weight.isfinite().all()):
        raise UserError(f"{path} holds no linear map of vectors of {width} numbers, the model's width")
    setattr(model, PROJECTION, SentenceProjection(weight.float(), None if bias is None else bias.float()))


def write_modules(folder: str | Path, model: PreTrainedModel) -> None:
    """Write modules.json and the folders of the modules of a sentence-embedding model; nothing for others."""
    pooling, folder = pooling_of(model.config), Path(folder)
    if pooling is None:
        return
    width, projection = model.config.hidden_size, projection_of(model)
    _write(folder / "1_Pooling" / "config.json", _pooling_values(pooling, width))
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    if projection is not None:
        _write_projection(folder / PROJECTION_FOLDER, projection)
        kinds.append(("Dense", PROJECTION_FOLDER))
    if pooling.normalise:
        kinds.append(("Normalize", f"{len(kinds)}_Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"{_TYPES}.{kind}"}
        for index, (kind, path) in enumerate(kinds)
    ]
    _write(folder / MODULES_FILE, modules)


def _pooling_values(pooling: SentencePooling, width: int) -> dict[str, Any]:
    return {"word_embedding_dimension": width, **{key: mode == pooling.mode for key, mode in LEGACY_MODES.items()}}


def _write_projection(folder: Path, projection: SentenceProjection) -> None:
    size, width = projection.weight.shape
    values = {
        "in_features": width, "out_features": size, "bias": projection.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    _write(folder / "config.json", values)
    tensors = {"linear.weight": projection.weight, "linear.bias": projection.bias}
    held = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(held, folder / _WEIGHTS, metadata={"format": "pt"})


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

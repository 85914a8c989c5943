"""Saving and fingerprint of a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from compressor.models.finite import check_finite_weights
from compressor.models.folder.weights import load_model
from compressor.models.headless.sentence_modules import write_modules
from compressor.models.headless.sentence_pooling import projection_of
from compressor.models.precision import lowered
from compressor.models.streamed import weights_of
from compressor.utils.logging import quiet_transformers

# Fields that do not change the computation.
_NOT_THE_MODEL = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}


def save_student(
    folder: str | Path, model: PreTrainedModel, processor: Any | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write safetensors, config, modules of sentence-transformers and preprocessor, for plain `from_pretrained`.

    Args:
        dtype: of the files; the model's if omitted.

    Raises:
        UserError: a weight is not finite; nothing is written.
    """
    with quiet_transformers(), lowered(model, dtype or model.dtype):
        check_finite_weights("the student", model)
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
    write_modules(folder, model)
    # safetensors makes files readable for the owner alone: use the mode of the others.
    for file in Path(folder).rglob("*.safetensors"):
        file.chmod(Path(folder, "config.json").stat().st_mode & 0o777)


def fingerprint(model: PreTrainedModel | str | Path) -> str:
    """Sha256 of class, config and tensors, 64 hex digits; saving and devices do not change it."""
    if not isinstance(model, PreTrainedModel):
        # Nothing of it is used afterwards.
        model = load_model(model, mapped=True)
    digest = hashlib.sha256(type(model).__name__.encode())
    digest.update(config_json(model.config).encode())
    # One by one: those on disk need not fit the memory.
    weights, projection = weights_of(model), _projection_tensors(model)
    for name in sorted({*weights, *projection}):
        tensor = (projection if name in projection else weights)[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _projection_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    projection = projection_of(model)
    if projection is None:
        return {}
    bias = {} if projection.bias is None else {"sentence_projection.bias": projection.bias}
    return {"sentence_projection.weight": projection.weight, **bias}


def config_json(config: PretrainedConfig) -> str:
    """A config as JSON, without fields that do not change the computation."""
    return json.dumps(_computed(config.to_dict()), sort_keys=True, default=str)


def _computed(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _computed(item) for key, item in value.items() if key not in _NOT_THE_MODEL}
    if isinstance(value, list | tuple):
        return [_computed(item) for item in value]
    return value

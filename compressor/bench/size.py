"""How large a model is: parameters, and bytes of weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.models.meta import weightless_copy


def count_parameters(model: nn.Module | PretrainedConfig) -> int:
    """Parameters, a tied one counted once; a config is enough and allocates no weights."""
    module = weightless_copy(model) if isinstance(model, PretrainedConfig) else model
    return sum(parameter.numel() for parameter in module.parameters())


def weight_bytes(model: nn.Module | str | Path) -> int:
    """Bytes of the weights: of a folder's safetensors files on disk, or of a model's state dict with ties counted once.

    Raises:
        UserError: the folder holds no safetensors file.
    """
    if isinstance(model, nn.Module):
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.numel() * tensor.element_size()
            for tensor in model.state_dict().values()
        }
        return sum(storages.values())
    files = list(Path(model).glob("*.safetensors"))
    if not files:
        raise UserError(f"no weights in {model}: expected *.safetensors")
    return sum(file.stat().st_size for file in files)

"""A model's structure without its weights: something that can be run and counted, at almost no memory."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.models.weights import model_class
from compressor.utils.logging import quiet_transformers


def weightless_copy(model: PreTrainedModel | PretrainedConfig) -> PreTrainedModel:
    """The same modules on the CPU with eager attention and experts; every parameter is one zero, read everywhere.

    The argument is left as it is.  Parameters that the model ties are one parameter here too.

    Raises:
        UnsupportedError: a config whose architecture the installed transformers does not have.
    """
    with quiet_transformers(), torch.no_grad():
        if isinstance(model, PretrainedConfig):
            with torch.device("meta"):
                copied = model_class(model)._from_config(copy.deepcopy(model), dtype=torch.float32)
            _materialise(copied)
        else:
            # A model that someone pruned by hand no longer is what its config says: copy its modules.
            copied = copy.deepcopy(model, {id(parameter): _zero(parameter) for parameter in model.parameters()})
            for module in copied.modules():
                for name, buffer in module._buffers.items():
                    module._buffers[name] = None if buffer is None else buffer.cpu()
        copied.set_attn_implementation("eager")
        if copied._can_set_experts_implementation():
            copied.set_experts_implementation("eager")
    return copied.eval()


def _materialise(model: nn.Module) -> None:
    zeros: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = zeros.setdefault(id(parameter), _zero(parameter))
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)


def _zero(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)

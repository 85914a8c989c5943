"""Parameters, bytes and multiply–accumulates."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError, UserError
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import most_positions, weightless_copy

#: Operations left out: they have no multiply–accumulates, and fvcore counts some of them (not RMSNorm) as a few per
#: element.
NORMS = ("aten::batch_norm", "aten::group_norm", "aten::instance_norm", "aten::layer_norm")

#: Matrix products that fvcore does not count.
FUSED = ("aten::scaled_dot_product_attention", "aten::_grouped_mm", "aten::_scaled_mm")


def count_parameters(model: nn.Module | PretrainedConfig) -> int:
    """Number of parameters, tied ones once."""
    module = weightless_copy(model) if isinstance(model, PretrainedConfig) else model
    return sum(parameter.numel() for parameter in module.parameters())


def weight_bytes(model: nn.Module | str | Path) -> int:
    """Bytes of safetensors files or a state dict, tied tensors once.

    Raises:
        UserError: no safetensors file.
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


def count_macs(
    model: PreTrainedModel | PretrainedConfig, inputs: Mapping[str, Tensor] | None = None, *, length: int = 128
) -> int:
    """Multiply–accumulates of linear layers, convolutions, and attention's two products.

    Traces a copy with eager attention and no memory for weights; by default on batch 1.

    Raises:
        UnsupportedError: the model cannot be built or traced, or fvcore misses a product.
    """
    copied = weightless_copy(model)
    if inputs is None:
        inputs = _sample_inputs(copied.config, length)
    values = tuple(value.cpu() for value in inputs.values())
    analysis = FlopCountAnalysis(_TensorOutputs(copied, tuple(inputs)), values)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**dict.fromkeys(NORMS, lambda inputs, outputs: 0))
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad():
            total = int(analysis.total())
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UnsupportedError(f"cannot count the FLOPs of {type(copied).__name__}: {error}") from error
    finally:
        logging.disable(disabled)
    uncounted = [name for name in FUSED if analysis.unsupported_ops()[name]]
    if uncounted:
        raise UnsupportedError(f"cannot count the FLOPs of {type(copied).__name__}: it uses {', '.join(uncounted)}")
    return total


def _sample_inputs(config: PretrainedConfig, length: int) -> Mapping[str, Tensor]:
    inputs = dummy_inputs(config, 1, min(length, most_positions(config) or length))
    if config.is_encoder_decoder and "input_ids" in inputs and "decoder_input_ids" not in inputs:
        inputs = {**inputs, "decoder_input_ids": inputs["input_ids"]}
    return inputs


class _TensorOutputs(nn.Module):
    """From positional inputs to a tuple of tensors."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.names, values, strict=True)), return_dict=True)
        # All tensors: the traced graph leaves out operations that no output depends on.
        return tuple(value for value in output.values() if isinstance(value, Tensor))

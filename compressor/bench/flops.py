"""Multiply–accumulates of one sample, counted on the traced graph with attention spelled out."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import most_positions, weightless_copy

#: Counted by fvcore as a few operations an element.  Left out: no multiply–accumulates, and RMSNorm has no such count.
NORMS = ("aten::batch_norm", "aten::group_norm", "aten::instance_norm", "aten::layer_norm")

#: Matrix products that fvcore does not know: a model that uses one would be counted too low.
FUSED = ("aten::scaled_dot_product_attention", "aten::_grouped_mm", "aten::_scaled_mm")


class _Plain(nn.Module):
    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.names, values, strict=True)), return_dict=True)
        # All of them: what no output depends on is not in the traced graph.
        return tuple(value for value in output.values() if isinstance(value, Tensor))


def count_macs(
    model: PreTrainedModel | PretrainedConfig, inputs: Mapping[str, Tensor] | None = None, *, length: int = 128
) -> int:
    """Multiply–accumulates of one forward pass: linear layers, convolutions, and attention's two products.

    Runs one forward pass on the CPU with weights of zero that take no memory, so a config is enough and a model
    is neither moved nor changed.

    Args:
        model: a model or just its config.
        inputs: what is fed; random inputs of batch 1 if omitted, so the count is that of one sample.
        length: tokens of a text input, cut to the positions that the model has.

    Raises:
        UnsupportedError: the model cannot be built or traced, or uses a fused product that cannot be counted.
    """
    copied = weightless_copy(model)
    config = copied.config
    if inputs is None:
        inputs = dummy_inputs(config, 1, min(length, most_positions(config) or length))
        if config.is_encoder_decoder and "decoder_input_ids" not in inputs:
            inputs = {**inputs, "decoder_input_ids": inputs["input_ids"]}
    values = tuple(value.cpu() for value in inputs.values())
    analysis = FlopCountAnalysis(_Plain(copied, tuple(inputs)), values)
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
    missed = [name for name in FUSED if analysis.unsupported_ops()[name]]
    if missed:
        raise UnsupportedError(f"cannot count the FLOPs of {type(copied).__name__}: it uses {', '.join(missed)}")
    return total

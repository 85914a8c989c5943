"""Quantising float32 ONNX files with ONNX Runtime's tools.

Int8: matrix products, convolutions and text embeddings, with scales per output channel.  Int4: matrix products, with
scales per block.  Norms, softmax and sums stay in float32, for accuracy at almost no cost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from compressor.errors import UnsupportedError
from compressor.export.onnx import LARGEST_FILE
from compressor.export.runtime import with_one_text
from compressor.recipe import Int8Options
from compressor.utils.logging import one_line

#: Operations that are quantised.
MULTIPLY = ("MatMul", "Gemm")
CONVOLVE, LOOK_UP = "Conv", "Gather"
#: Weights of one input block of an output channel share an int4 scale and zero point.
INT4_BLOCK = 32


def write_dynamic_int8(source: Path, path: Path, options: Int8Options) -> None:
    """Quantise weights to int8, activations at run time.

    Raises:
        UnsupportedError: the quantiser refuses the graph.
    """
    _write_dynamic(source, path, options, [*MULTIPLY, LOOK_UP], "QInt8")


def write_dynamic_uint8(source: Path, path: Path, options: Int8Options) -> None:
    """Quantise weights to uint8, activations at run time, of convolutions too: these run with uint8 weights alone.

    Raises:
        UnsupportedError: the quantiser refuses the graph.
    """
    _write_dynamic(source, path, options, [*MULTIPLY, CONVOLVE, LOOK_UP], "QUInt8")


def _write_dynamic(source: Path, path: Path, options: Int8Options, operations: list[str], weight_type: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quantiser_errors_as_one_line(source, "quantise"):
        quantize_dynamic(
            without_inner_shapes(source),
            path,
            op_types_to_quantize=operations,
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            weight_type=QuantType[weight_type],
            use_external_data_format=_is_large(source),
        )


def write_int4(source: Path, path: Path) -> None:
    """Quantise the weights of matrix products to int4, in blocks of `INT4_BLOCK` inputs; all else stays float32.

    Raises:
        UnsupportedError: the quantiser refuses the graph, or it has no product with a weight.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with quantiser_errors_as_one_line(source, "quantise"):
        quantiser = MatMulNBitsQuantizer(
            without_inner_shapes(source), block_size=INT4_BLOCK, is_symmetric=False, op_types_to_quantize=("MatMul",)
        )
        quantiser.process()
        quantiser.model.save_model_to_file(str(path), use_external_data_format=_is_large(source))
    if not any(node.op_type == "MatMulNBits" for node in quantiser.model.model.graph.node):
        raise UnsupportedError(f"{source.name} has no matrix product with a weight that int4 could take")


def write_static_int8(source: Path, path: Path, batches: Sequence[Mapping[str, Tensor]], options: Int8Options) -> None:
    """Quantise weights and activations to int8, with ranges from calibration samples; ignores unknown inputs.

    Raises:
        UnsupportedError: the quantiser refuses the graph.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    # Without the entropy method: it has as many bins as levels, and so always chooses the range of minmax.
    methods = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    with quantiser_errors_as_one_line(source, "quantise"), _threads_of_torch():
        quantize_static(
            without_inner_shapes(source),
            path,
            calibration_reader(source, batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*MULTIPLY, CONVOLVE],
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[options.calibration],
            # Not the products inside attention: quantising two activations costs accuracy.
            extra_options={"MatMulConstBOnly": True},
            use_external_data_format=_is_large(source),
        )


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """Sessions of ONNX Runtime's tools take torch's number of threads, not all of the machine."""
    import onnxruntime

    original = onnxruntime.SessionOptions

    def session_options() -> Any:
        options = original()
        options.intra_op_num_threads = torch.get_num_threads()
        return options

    # The calibrator makes its options itself.
    with patch.object(onnxruntime, "SessionOptions", session_options):
        yield


def without_inner_shapes(source: Path) -> ModelProto:
    """The graph without inner shapes, which contradict transposed weights."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    return model


def _is_large(source: Path) -> bool:
    return sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*")) > LARGEST_FILE


def calibration_reader(source: Path, batches: Sequence[Mapping[str, Tensor]]) -> Any:
    """Calibration samples for the quantiser."""
    from onnxruntime.quantization import CalibrationDataReader

    names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            if batch is None:
                return None
            # A tokenizer may leave out the types of a single text.
            values = with_one_text(batch, names)
            return {name: values[name].numpy() for name in names}

    return Reader()


@contextmanager
def quantiser_errors_as_one_line(source: Path, doing: str) -> Iterator[None]:
    """Suppress the tools' output; turn their errors into one line."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    except Exception as error:
        raise UnsupportedError(f"ONNX Runtime cannot {doing} {source.name}: {one_line(error)}") from error
    finally:
        logging.disable(disabled)

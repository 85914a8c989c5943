"""Smaller ONNX files from a float32 one: int8 and float16, by the tools that come with ONNX Runtime.

Only what multiplies matrices is quantised (and, for text, the tables of embeddings): norms, softmax and sums stay in
float32, which costs next to no time and keeps the answers. Weights have a scale for each output channel.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto
from torch import Tensor

from compressor.errors import UnsupportedError
from compressor.export.onnx import LARGEST_FILE
from compressor.recipe import Int8Options
from compressor.utils.logging import one_line

#: Operations that are quantised.
MULTIPLY = ("MatMul", "Gemm")
CONVOLVE, LOOK_UP = "Conv", "Gather"


def write_dynamic_int8(source: Path, path: Path, options: Int8Options) -> None:
    """Quantise weights and embeddings to int8; activations are quantised while it runs, so no data is needed.

    Args:
        source: the float32 file.
        path: where to.
        options: how.

    Raises:
        UnsupportedError: ONNX Runtime's quantiser refuses the graph.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quantiser_errors_as_one_line(source, "quantise"):
        quantize_dynamic(
            plain_graph(source),
            path,
            op_types_to_quantize=[*MULTIPLY, LOOK_UP],
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            weight_type=QuantType.QInt8,
            use_external_data_format=_is_large(source),
        )


def write_static_int8(source: Path, path: Path, batches: Sequence[Mapping[str, Tensor]], options: Int8Options) -> None:
    """Quantise weights and activations to int8, with the ranges that activations take on calibration samples.

    Args:
        source: the float32 file.
        path: where to.
        batches: model inputs by name; others are left out.
        options: how.

    Raises:
        UnsupportedError: ONNX Runtime's quantiser refuses the graph.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    # Its entropy method has as many bins as levels, so one range to choose: that of minmax.
    methods = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    with quantiser_errors_as_one_line(source, "quantise"):
        quantize_static(
            plain_graph(source),
            path,
            reader_of(source, batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*MULTIPLY, CONVOLVE],
            per_channel=options.per_channel,
            reduce_range=options.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[options.calibration],
            # Attention's own products have no weights; quantising both sides of them costs accuracy.
            extra_options={"MatMulConstBOnly": True},
            use_external_data_format=_is_large(source),
        )


def write_float16(source: Path, path: Path) -> None:
    """Keep weights, and compute, in float16; inputs and outputs stay float32.

    A CPU has few float16 kernels: ONNX Runtime casts around the others, so there this saves size, not time.

    Raises:
        UnsupportedError: the converter refuses the graph.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with quantiser_errors_as_one_line(source, "convert"):
        converted = OnnxModel(convert_float_to_float16(plain_graph(source), keep_io_types=True))
        # The converter appends its casts of the inputs behind their readers.
        converted.topological_sort()
        onnx.save(converted.model, path, save_as_external_data=_is_large(source), location=f"{path.name}.data")


def plain_graph(source: Path) -> ModelProto:
    """The graph without the shapes of inner values: the tools transpose weights, and the shapes would contradict."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    return model


def _is_large(source: Path) -> bool:
    return sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*")) > LARGEST_FILE


def reader_of(source: Path, batches: Sequence[Mapping[str, Tensor]]) -> Any:
    """Calibration samples as the quantiser reads them: of every batch the file's inputs."""
    from onnxruntime.quantization import CalibrationDataReader

    names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {name: batch[name].numpy() for name in names}

    return Reader()


@contextmanager
def quantiser_errors_as_one_line(source: Path, doing: str) -> Iterator[None]:
    """Nothing of what the tools log and print; what they raise is one line."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    except Exception as error:
        raise UnsupportedError(f"ONNX Runtime cannot {doing} {source.name}: {one_line(error)}") from error
    finally:
        logging.disable(disabled)

"""Latency of models compared with each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from compressor.bench.latency import Latency, Runner, measure_latency, onnx_runner, torch_runner
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import most_positions
from compressor.models.modalities import is_image_config, reads_sound

#: Tokens of the text samples of a run's table.
LENGTH = 128
#: Keys of a config that change neither shapes nor time.
_WITHOUT_COST = ("id2label", "label2id", "_name_or_path", "transformers_version", "architectures", "dtype")


@dataclass(frozen=True)
class TimedModel:
    """A model to time, or several in sequence.

    Attributes:
        onnx: files; None leaves ONNX Runtime out.
    """

    name: str
    models: tuple[PreTrainedModel, ...]
    onnx: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class Timing:
    """Latency per backend."""

    torch: Latency
    ort: Latency | None

    def columns(self) -> dict[str, float | None]:
        """Latency columns of a `Row`."""
        return {
            "torch_p50_ms": self.torch.p50_ms,
            "torch_p95_ms": self.torch.p95_ms,
            "ort_p50_ms": self.ort.p50_ms if self.ort else None,
            "ort_p95_ms": self.ort.p95_ms if self.ort else None,
        }


def time_contenders(
    contenders: Sequence[TimedModel],
    *,
    batch_size: int,
    seconds: float,
    thread_count: int | None = None,
    length: int = LENGTH,
    warmups: int = 10,
) -> dict[str, Timing]:
    """Time contenders of one task in turns on the same random inputs, in torch, then in ONNX Runtime.

    Contenders of one shape, and of the same files, are timed once: time does not depend on weights.

    Args:
        seconds: least time per contender and backend.
        thread_count: None for torch's.
        length: tokens, at most the models' limit.
        warmups: after the first call.

    Returns:
        {name: timing}
    """
    thread_count = thread_count or torch.get_num_threads()
    configs = [model.config for contender in contenders for model in contender.models]
    inputs = dummy_inputs(configs[0], batch_size, min(sample_length(config, length) or 1 for config in configs))
    keys = {contender.name: shape_key(contender.models) for contender in contenders}
    distinct = {keys[contender.name]: contender for contender in reversed(contenders)}
    in_torch = {
        key: _in_turn([torch_runner(model, inputs, thread_count) for model in contender.models])
        for key, contender in distinct.items()
    }
    # One session per file: a second one's threads would spin.
    paths = {path for contender in contenders for path in contender.onnx or ()}
    sessions = {path: onnx_runner(path, inputs, thread_count) for path in sorted(paths)}
    files = {contender.name: " ".join(map(str, contender.onnx or ())) for contender in contenders}
    in_ort = {
        files[contender.name]: _in_turn([sessions[path] for path in contender.onnx])
        for contender in contenders
        if contender.onnx
    }
    # One backend after the other: in turns, each is twice as slow.
    torch_latency = measure_latency(in_torch, seconds=seconds, warmups=warmups)
    ort_latency = measure_latency(in_ort, seconds=seconds, warmups=warmups)
    return {name: Timing(torch_latency[key], ort_latency.get(files[name])) for name, key in keys.items()}


def sample_length(config: PretrainedConfig, length: int = LENGTH) -> int | None:
    """Tokens of a measured text sample; None without text."""
    if is_image_config(config) or (reads_sound(config) and not config.is_encoder_decoder):
        return None
    return min(length, most_positions(config) or length)


def latency_report(
    timings: dict[str, Timing], batch_size: int, seconds: float, length: int | None = None
) -> dict[str, Any] | None:
    """The entry `latency` of report.json, or None."""
    if not timings:
        return None
    return {
        "batch_size": batch_size,
        "length": length,
        "seconds": seconds,
        "shared": "models of the same shape are timed once and share the result",
        "models": {
            name: {"torch": asdict(timing.torch), "onnxruntime": asdict(timing.ort) if timing.ort else None}
            for name, timing in timings.items()
        },
    }


def shape_key(models: Sequence[PreTrainedModel]) -> str:
    """A text shared by models of one class and shape."""
    return json.dumps([_shape(model) for model in models], sort_keys=True, default=str)


def _shape(model: PreTrainedModel) -> list[Any]:
    values: Mapping[str, Any] = model.config.to_dict()
    return [type(model).__name__, {key: value for key, value in values.items() if key not in _WITHOUT_COST}]


def _in_turn(runners: Sequence[Runner]) -> Runner:
    if len(runners) == 1:
        return runners[0]

    def call() -> None:
        for runner in runners:
            runner()

    loads = [runner.load_ms for runner in runners if runner.load_ms is not None]
    first = runners[0]
    return Runner(call, first.backend, first.batch_size, first.threads, sum(loads) if loads else None)

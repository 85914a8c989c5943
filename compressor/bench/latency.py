"""Latency in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressor.bench.onnx_inputs import Entry, make_feed
from compressor.utils.threads import torch_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Least number of turns per contender, so that a slow phase of the machine affects all of them.
TURNS = 10

#: Warm-ups stop after this many times the measuring time; `Latency.warmups` is their number.
WARMUP_SHARE = 5.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call, and settings."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    first_call_ms: float
    load_ms: float | None
    iterations: int
    warmups: int
    batch_size: int | None
    threads: int | None
    backend: str


@dataclass(frozen=True)
class Runner:
    """A call of `batch_size` samples."""

    call: Callable[[], Any]
    backend: str
    batch_size: int | None = None
    threads: int | None = None
    load_ms: float | None = None

    def __call__(self) -> Any:
        return self.call()


@dataclass
class _Contender:
    runner: Runner
    first_call_ms: float = 0.0
    warmups: int = 0
    times: list[float] = field(default_factory=list)

    def is_finished(self, seconds: float, iterations: int) -> bool:
        return len(self.times) >= iterations and sum(self.times) >= seconds


def available_threads() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_latency(
    contenders: Mapping[str, Callable[[], Any]], *, seconds: float, warmups: int = 10, min_iterations: int = 10
) -> dict[str, Latency]:
    """Time contenders in turns of about a tenth of `seconds` each.

    Args:
        seconds: least time per contender.
        warmups: unmeasured calls after the first; fewer if they take 5 × `seconds`.
    """
    running = {
        name: _Contender(call if isinstance(call, Runner) else Runner(call, "callable"))
        for name, call in contenders.items()
    }
    for contender in running.values():
        with _threads_of(contender.runner):
            contender.first_call_ms = _timed(contender.runner) * 1e3
            deadline = time.perf_counter() + WARMUP_SHARE * seconds
            while contender.warmups < warmups and (contender.warmups == 0 or time.perf_counter() < deadline):
                contender.runner()
                contender.warmups += 1
    while unfinished := [
        contender for contender in running.values() if not contender.is_finished(seconds, min_iterations)
    ]:
        for contender in unfinished:
            _take_turn(contender, seconds / TURNS)
    return {name: _summary(contender) for name, contender in running.items()}


def torch_runner(
    model: PreTrainedModel | Callable[[], PreTrainedModel], inputs: Mapping[str, Tensor], threads: int | None = None
) -> Runner:
    """A runner in torch of inputs [B, ...]; loads the model if it is a function."""
    from transformers import PreTrainedModel

    load_ms = None
    if not isinstance(model, PreTrainedModel):
        begin = time.perf_counter()
        model = model()
        load_ms = (time.perf_counter() - begin) * 1e3
    loaded = model
    device: torch.device = loaded.device
    feed = {name: value.to(device) for name, value in inputs.items()}

    def call() -> None:
        with torch.inference_mode():
            loaded(**feed)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)

    return Runner(call, "torch", _batch_size(feed), threads or torch.get_num_threads(), load_ms)


def onnx_runner(path: str | Path, inputs: Mapping[str, Tensor], threads: int | None = None) -> Runner:
    """A runner in ONNX Runtime on the CPU; by default with torch's threads."""
    import onnxruntime

    threads = threads or torch.get_num_threads()
    options = onnxruntime.SessionOptions()
    # By default ONNX Runtime uses every core of the machine, whatever the process may use.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Contenders take turns: idle threads of one session must not spin while another computes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    begin = time.perf_counter()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    load_ms = (time.perf_counter() - begin) * 1e3
    entries = [Entry(entry.name, entry.shape, entry.type) for entry in session.get_inputs()]
    length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 1
    given = {name: value.cpu().numpy() for name, value in inputs.items()}
    feed = {name: given.get(name, value) for name, value in make_feed(entries, _batch_size(inputs), length).items()}
    return Runner(lambda: session.run(None, feed), "onnxruntime", _batch_size(inputs), threads, load_ms)


def _batch_size(inputs: Mapping[str, Tensor]) -> int:
    return len(next(iter(inputs.values())))


def _timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _take_turn(contender: _Contender, seconds: float) -> None:
    spent = 0.0
    with _threads_of(contender.runner):
        while spent == 0.0 or spent < seconds:
            contender.times.append(_timed(contender.runner))
            spent += contender.times[-1]


def _summary(contender: _Contender) -> Latency:
    runner = contender.runner
    p50, p90, p95, p99 = (float(value) * 1e3 for value in np.percentile(contender.times, [50, 90, 95, 99]))
    return Latency(
        p50, p90, p95, p99, contender.first_call_ms, runner.load_ms, len(contender.times), contender.warmups,
        runner.batch_size, runner.threads, runner.backend,
    )  # fmt: skip


def _threads_of(runner: Runner) -> Any:
    if runner.backend == "torch" and runner.threads is not None:
        return torch_threads(runner.threads)
    return nullcontext()

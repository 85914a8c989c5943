"""What waiting threads cost on a machine with other load: ONNX Runtime's spinning on and off, and torch.

    python -m benchmarks.deploy.loaded --busy 2

ONNX Runtime's threads spin for some time when they wait for work or for each other.  Alone that saves wake-ups; beside
other load a spinning thread takes the very core that a working one needs.  All ways take turns, while `--busy`
processes compute without end.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import onnxruntime
import torch
import typer

from benchmarks.deploy.ratios import PAIRS
from compressor.bench.latency import Runner, measure_latency, torch_runner
from compressor.export.onnx import write_onnx
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import model_class

#: {way: entries of ONNX Runtime's session}; `compress bench` takes the last one.
WAYS = {
    "spinning (ONNX Runtime's default)": {},
    "no spinning": {"session.intra_op.allow_spinning": "0"},
    "spinning, stopped after each call": {"session.force_spinning_stop": "1"},
}


def main(
    busy: Annotated[int, typer.Option(help="Processes that compute meanwhile.")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each way.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Samples per call.")] = 1,
    seconds: Annotated[float, typer.Option(help="Least measuring time of each way.")] = 5.0,
) -> None:
    """Print the latency of each way."""
    config = PAIRS["cifar10-vit"]
    torch.manual_seed(0)
    model = model_class(config)._from_config(config).eval()
    inputs = dummy_inputs(config, batch_size)
    with tempfile.TemporaryDirectory() as scratch, busy_processes(busy):
        path = write_onnx(model, scratch, batch_sizes=(1,)).path
        runners = {name: _onnx(path, entries, threads, batch_size) for name, entries in WAYS.items()}
        runners["torch"] = torch_runner(model, inputs, threads)
        for name, one in measure_latency(runners, seconds=seconds).items():
            typer.echo(f"{name}: p50 {one.p50_ms:.2f} ms, p95 {one.p95_ms:.2f} ms, {one.iterations} calls")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that compute without end."""
    workers = [multiprocessing.Process(target=_spend, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _spend() -> None:
    while True:
        sum(range(1 << 16))


def _onnx(path: Path, entries: dict[str, str], threads: int, batch_size: int) -> Runner:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in dummy_inputs(PAIRS["cifar10-vit"], batch_size).items()}
    return Runner(lambda: session.run(None, feed), "onnxruntime", batch_size, threads)


if __name__ == "__main__":
    typer.run(main)

"""Contenders timed in turns, each in a process of its own: none sees another's memory, threads or caches of kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compressor.bench.latency import TURNS, WARMUP_SHARE
from compressor.utils.strict_json import json_text

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class TimingJob:
    """What one process runs.

    Attributes:
        engine: one of `compressor.bench.worker.ENGINES`.
        path: a model's folder or Hub id for torch, a file for ONNX Runtime.
        batch_size: samples per call.
        length: tokens of a text sample.
        threads: that it computes with.
        device: of torch.
        config: the model's config, for inputs of an ONNX file.
    """

    engine: str
    path: str
    batch_size: int
    length: int
    threads: int
    device: str = "cpu"
    config: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Measurement:
    """Milliseconds per call and bytes of a process, and how they were measured.

    Attributes:
        import_ms: of the engine's libraries.
        load_ms: from the file to something that can be called.
        first_call_ms: of the first call, which compiles where the engine does.
        base_memory_bytes: the most memory held before the model was loaded: the libraries.
        peak_memory_bytes: the most memory held at all.
    """

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    import_ms: float
    load_ms: float
    first_call_ms: float
    iterations: int
    warmups: int
    threads: int
    base_memory_bytes: int
    peak_memory_bytes: int


class WorkerError(Exception):
    """A process could not do its job; the message says why."""


@dataclass
class _Process:
    process: subprocess.Popen[str]
    job: TimingJob
    about: dict[str, Any] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def ask(self, values: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json_text(values) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"its process ended with code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise WorkerError(found["error"])
        return found

    def done(self, seconds: float, iterations: int) -> bool:
        return len(self.times) >= iterations and sum(self.times) >= seconds

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def measure_isolated(
    jobs: Sequence[TimingJob],
    *,
    seconds: float,
    warmups: int = 10,
    min_iterations: int = 10,
    tell: Callable[[float], None] | None = None,
) -> list[Measurement | WorkerError]:
    """Time jobs in turns of about a tenth of `seconds` each, one at a time.

    Args:
        jobs: what is timed against each other.
        seconds: least time measured per job.
        warmups: calls before measuring, after the first one; fewer where they would take 5 times `seconds`.
        min_iterations: least number of measured calls per job.
        tell: told the share done.

    Returns:
        In the order of the jobs; where one failed, why.
    """
    failed: dict[int, WorkerError] = {}
    running: dict[int, _Process] = {}
    found: dict[int, Measurement] = {}
    with ExitStack() as stack:
        for index, job in enumerate(jobs):
            process = _Process(_start(job), job)
            stack.callback(process.end)
            begin = {**asdict(job), "warmups": warmups, "warmup_seconds": WARMUP_SHARE * seconds}
            try:
                process.about = process.ask(begin)
                running[index] = process
            except WorkerError as error:
                failed[index] = error
        while waiting := {i: one for i, one in running.items() if not one.done(seconds, min_iterations)}:
            for index, one in waiting.items():
                try:
                    one.times += one.ask({"seconds": seconds / TURNS})["times"]
                except WorkerError as error:
                    failed[index] = error
                    del running[index]
            if tell and running:
                tell(min(1.0, sum(min(sum(one.times), seconds) for one in running.values()) / seconds / len(running)))
        for index, one in running.items():
            try:
                found[index] = _summary(one, one.ask({})["peak_memory_bytes"])
            except WorkerError as error:
                failed[index] = error
    return [failed[index] if index in failed else found[index] for index in range(len(jobs))]


def _start(job: TimingJob) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        # Wherever this package is imported from, its process imports the same.
        "PYTHONPATH": os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "compressor.bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _summary(one: _Process, peak: int) -> Measurement:
    times = np.array(one.times) * 1e3
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, PERCENTILES))
    about = one.about
    return Measurement(
        p50,
        p90,
        p95,
        p99,
        float(times.mean()),
        about["import_ms"],
        about["load_ms"],
        about["first_call_ms"],
        len(times),
        about["warmups"],
        one.job.threads,
        about["base_memory_bytes"],
        peak,
    )

"""Timing of models in turns, a process each."""

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

from compressor.bench.energy import EnergyMeter
from compressor.bench.latency import TURNS, WARMUP_SHARE
from compressor.utils.consent import is_code_trusted
from compressor.utils.strict_json import json_text

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class TimingJob:
    """One process; `path`: folder or Hub id for torch, file for ONNX Runtime."""

    engine: str
    path: str
    batch_size: int
    length: int
    threads: int
    device: str = "cpu"
    config: Mapping[str, Any] | None = None
    code_trusted: bool = field(default_factory=is_code_trusted)


@dataclass(frozen=True)
class Measurement:
    """Milliseconds, peak memory, and settings.

    Attributes:
        import_ms: of libraries.
        first_call_ms: with compilation.
        p50_low_ms, p50_high_ms: least and largest median of a turn: how far the p50 moves by itself.
        base_memory_bytes: before loading.
        joules: of a call, of the processor's packages with all that runs on them; None where it cannot be read.
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
    p50_low_ms: float
    p50_high_ms: float
    joules: float | None = None


class WorkerError(Exception):
    """A process failed, for the given reason."""


@dataclass
class _Process:
    process: subprocess.Popen[str]
    job: TimingJob
    startup: dict[str, Any] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    joules: float | None = None

    def request(self, values: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json_text(values) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"its process ended with code {self.process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def is_finished(self, seconds: float, iterations: int) -> bool:
        return len(self.times) >= iterations and sum(self.times) >= seconds

    def close(self) -> None:
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
    on_progress: Callable[[float], None] | None = None,
) -> list[Measurement | WorkerError]:
    """Time jobs one at a time, in turns (see `latency.measure_latency`); failed jobs give errors."""
    failed: dict[int, WorkerError] = {}
    running: dict[int, _Process] = {}
    measured: dict[int, Measurement] = {}
    with ExitStack() as stack:
        for index, job in enumerate(jobs):
            process = _Process(_start(job), job)
            stack.callback(process.close)
            start = {**asdict(job), "warmups": warmups, "warmup_seconds": WARMUP_SHARE * seconds}
            try:
                process.startup = process.request(start)
                running[index] = process
            except WorkerError as error:
                failed[index] = error
        meter = EnergyMeter()
        while unfinished := {i: p for i, p in running.items() if not p.is_finished(seconds, min_iterations)}:
            for index, process in unfinished.items():
                meter.joules()
                try:
                    turn = process.request({"seconds": seconds / TURNS})["times"]
                    process.times += turn
                    process.medians.append(float(np.median(turn)) * 1e3)
                    if (spent := meter.joules()) is not None:
                        process.joules = (process.joules or 0.0) + spent
                except WorkerError as error:
                    failed[index] = error
                    del running[index]
            if on_progress and running:
                done = sum(min(sum(process.times), seconds) for process in running.values())
                on_progress(min(1.0, done / seconds / len(running)))
        for index, process in running.items():
            try:
                measured[index] = _summary(process, process.request({})["peak_memory_bytes"])
            except WorkerError as error:
                failed[index] = error
    return [failed[index] if index in failed else measured[index] for index in range(len(jobs))]


def _start(job: TimingJob) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.threads),
        # The process imports this very package.
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


def _summary(process: _Process, peak: int) -> Measurement:
    times = np.array(process.times) * 1e3
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, PERCENTILES))
    return Measurement(
        p50,
        p90,
        p95,
        p99,
        float(times.mean()),
        process.startup["import_ms"],
        process.startup["load_ms"],
        process.startup["first_call_ms"],
        len(times),
        process.startup["warmups"],
        process.job.threads,
        process.startup["base_memory_bytes"],
        peak,
        min(process.medians),
        max(process.medians),
        None if process.joules is None else process.joules / len(times),
    )

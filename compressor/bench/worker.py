"""A process that times one model, for `compressor.bench.subprocesses`; imports only its engine.

Reads lines of JSON: the job, {"seconds"} per turn, then {}; replies likewise.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from compressor.utils.process_memory import peak_memory

EngineCall = Callable[[], Any]


def worker_main() -> None:
    """Reply to every line of stdin."""
    # Libraries may print to stdout: replies use a copy of it, and stdout goes to stderr.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(values: dict[str, Any]) -> None:
        out.write(json.dumps(values, allow_nan=False) + "\n")
        out.flush()

    job = json.loads(sys.stdin.readline())
    try:
        reply(_begin(job, call := _DeferredCall()))
        for line in sys.stdin:
            request = json.loads(line)
            if not request:
                reply({"peak_memory_bytes": peak_memory()})
                return
            reply({"times": _turn(call, request["seconds"])})
    # The parent process reports whatever a model or a library raises.
    except Exception as error:
        reply({"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]})


class _DeferredCall:
    """A call that is set after loading."""

    call: EngineCall

    def __call__(self) -> Any:
        return self.call()


def _begin(job: dict[str, Any], call: _DeferredCall) -> dict[str, Any]:
    begin = time.perf_counter()
    load = ENGINES[job["engine"]](job)
    imported = time.perf_counter()
    base = peak_memory()
    call.call = load()
    loaded = time.perf_counter()
    call()
    first = time.perf_counter()
    warmups = 0
    while warmups < job["warmups"] and (warmups == 0 or time.perf_counter() < first + job["warmup_seconds"]):
        call()
        warmups += 1
    return {
        "import_ms": (imported - begin) * 1e3,
        "load_ms": (loaded - imported) * 1e3,
        "first_call_ms": (first - loaded) * 1e3,
        "warmups": warmups,
        "base_memory_bytes": base,
    }


def _turn(call: EngineCall, seconds: float) -> list[float]:
    times: list[float] = []
    spent = 0.0
    while not times or spent < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
        spent += times[-1]
    return times


def _torch(job: dict[str, Any]) -> Callable[[], EngineCall]:
    import torch

    from compressor.models.folder.weights import load_model
    from compressor.models.inputs import dummy_inputs
    from compressor.utils.consent import code_trusted
    from compressor.utils.logging import quiet_transformers

    torch.set_num_threads(job["threads"])

    def load() -> EngineCall:
        device = torch.device(job["device"])
        with quiet_transformers(), code_trusted(job["code_trusted"]):
            model: Any = load_model(job["path"], mapped=True).requires_grad_(False)
            model.to(device)
        inputs = dummy_inputs(model.config, job["batch_size"], job["length"])
        feed = {name: value.to(device) for name, value in inputs.items()}
        run = torch.compile(model) if job["engine"] == "torch-compile" else model

        def call() -> None:
            with torch.inference_mode():
                run(**feed)
                if device.type != "cpu":
                    torch.accelerator.synchronize(device)

        return call

    return load


def _onnx(job: dict[str, Any]) -> Callable[[], EngineCall]:
    import onnxruntime

    from compressor.bench.onnx_inputs import Entry, make_feed

    def load() -> EngineCall:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if job["engine"] != "onnx-default":
            # By default ONNX Runtime uses every core of the machine, whatever the process may use.
            options.intra_op_num_threads = job["threads"]
            options.inter_op_num_threads = 1
            # Contenders take turns: idle threads of one session must not spin while another computes.
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if job["engine"] == "onnx-no-spinning":
            # Beside other load a thread that spins while it waits takes the core that a working one needs.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(job["path"], options, providers=["CPUExecutionProvider"])
        entries = [Entry(value.name, value.shape, value.type) for value in session.get_inputs()]
        feed = make_feed(entries, job["batch_size"], job["length"], job.get("config"))
        return lambda: session.run(None, feed)

    return load


#: {engine: function from a job to a loader}; the former imports libraries, the latter returns the call.
ENGINES: dict[str, Callable[[dict[str, Any]], Callable[[], EngineCall]]] = {
    "torch": _torch,
    "torch-compile": _torch,
    "onnx": _onnx,
    "onnx-default": _onnx,
    "onnx-no-spinning": _onnx,
}

if __name__ == "__main__":
    worker_main()

"""Backends of `compress bench`; a new one is one entry of `BACKENDS`."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.utils.registry import Registry


@dataclass(frozen=True)
class Backend:
    """One way to run a model; `format` None runs its folder, `files` are other exporters' names."""

    meaning: str
    engine: str
    format: str | None = None
    files: tuple[str, ...] = ()


BACKENDS: Registry[Backend] = Registry("backend")
BACKENDS.register("torch")(Backend("torch, eager", "torch"))
BACKENDS.register("torch-compile")(Backend("torch.compile", "torch-compile"))
BACKENDS.register("onnx")(Backend("ONNX Runtime", "onnx", "onnx"))
BACKENDS.register("onnx-default")(Backend("ONNX Runtime, its default settings", "onnx-default", "onnx"))
BACKENDS.register("onnx-no-spinning")(Backend("ONNX Runtime, waiting threads asleep", "onnx-no-spinning", "onnx"))
BACKENDS.register("onnx-int8")(Backend("ONNX Runtime, int8", "onnx", "onnx-int8", ("model_int8.onnx",)))
BACKENDS.register("onnx-int8-dynamic")(Backend("ONNX Runtime, dynamic int8", "onnx", "onnx-int8-dynamic"))
BACKENDS.register("onnx-uint8")(Backend("ONNX Runtime, uint8", "onnx", "onnx-uint8"))
BACKENDS.register("onnx-int4")(Backend("ONNX Runtime, int4 weights", "onnx", "onnx-int4"))
BACKENDS.register("onnx-fp16")(Backend("ONNX Runtime, float16", "onnx", "onnx-fp16"))

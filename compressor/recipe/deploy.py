"""Options of what the student is delivered with: its measurements and its files."""

from __future__ import annotations

from pydantic import Field

from compressor.recipe.section import Count, Positive, Section


class BenchOptions(Section):
    """How latency is measured in the run's table; `compress bench` measures longer."""

    latency: bool = Field(True, description="Measure latency in torch and in ONNX Runtime.")
    batch_size: Count = Field(32, description="Samples per call whose latency is measured.")
    seconds: Positive = Field(0.5, description="Least measuring time per model and backend.")
    threads: Count | None = Field(
        None, description="Threads of torch and ONNX Runtime; all cores of this process if omitted."
    )


class ExportOptions(Section):
    """The ONNX files and their proof."""

    onnx: bool = Field(True, description="Write the ONNX files and check them against torch.")
    cache: bool = Field(True, description="Also write files with past keys and values for models that generate.")
    tolerance: Positive = Field(1e-4, description="Largest allowed relative difference between ONNX Runtime and torch.")

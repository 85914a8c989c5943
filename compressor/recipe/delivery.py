"""Options of measurements and exported files."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from compressor.recipe.section import Count, Positive, Section


class BenchOptions(Section):
    """How latency is measured in the table of results; `compress bench` measures longer."""

    latency: bool = Field(True, description="Measure latency in torch and in ONNX Runtime.")
    batch_size: Count = Field(32, description="Samples per call.")
    seconds: Positive = Field(0.5, description="Minimum measuring time per model and backend.")
    threads: Count | None = Field(
        None, description="Threads of torch and ONNX Runtime while timing; those of the run if omitted."
    )


class Int8Options(Section):
    """How files are quantised to int8."""

    per_channel: bool = Field(True, description="One scale per output channel of a weight, rather than one per weight.")
    reduce_range: bool = Field(
        False,
        description="Seven bits for weights, for x86 processors without VNNI, where eight may overflow; less exact.",
    )
    calibration: Literal["minmax", "percentile"] = Field(
        "minmax", description="How ranges of activations are estimated on calibration samples, for images."
    )


class ExportOptions(Section):
    """The student's exported files, and their comparison with torch."""

    onnx: bool = Field(True, description="Write the ONNX files and compare them with torch.")
    formats: tuple[str, ...] = Field(
        ("onnx",),
        min_length=1,
        description="Formats to write, each compared with torch: onnx, onnx-int8 (static for images, which needs data; "
        "else dynamic), onnx-int8-dynamic (for images too), onnx-uint8, onnx-int4, onnx-fp16, torch-export, "
        "safetensors-bf16, safetensors-fp16.",
    )
    opset: Count | None = Field(
        None, description="Version of ONNX's operations (opset) of the ONNX files; torch's own if omitted."
    )
    int8: Int8Options = Int8Options()
    cache: bool = Field(True, description="For models that generate, also write files with past keys and values.")
    tolerance: Positive = Field(1e-4, description="Largest relative difference allowed between ONNX Runtime and torch.")

    @field_validator("formats", mode="before")
    @classmethod
    def _one_format_or_several(cls, formats: Any) -> Any:
        return (formats,) if isinstance(formats, str) else formats

    @model_validator(mode="after")
    def _no_onnx_without_onnx(self) -> ExportOptions:
        derived = [name for name in self.formats if name.startswith("onnx-")]
        if derived and not self.onnx:
            raise ValueError(f"onnx is off, but formats names {', '.join(derived)}: leave one of them out")
        return self

    @property
    def wanted(self) -> tuple[str, ...]:
        """Formats to write, each once."""
        names = (name for name in self.formats if self.onnx or name != "onnx")
        return tuple(dict.fromkeys(names))

"""Budgets that pick the student's width."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from compressor.recipe.section import Count, Positive, Section, number_with_unit

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_MILLISECONDS = {"": 1.0, "ms": 1.0, "s": 1e3}


class TargetOptions(Section):
    """The student's budget; the width that meets it is searched, the depth is kept."""

    params: Positive | None = Field(
        None,
        description="Parameters of the student, such as 6M, or up to 1 as a share of the widest teacher's: picks the "
        "width that comes closest.",
    )
    flops: Positive | None = Field(
        None,
        description="Multiply-accumulates of one sample, such as 4.6G, or up to 1 as a share of the widest teacher's: "
        "picks the width that comes closest.",
    )
    latency: Positive | None = Field(
        None,
        description="Most milliseconds a call, such as 5ms: picks the widest student that is measured to be as fast in "
        "ONNX Runtime on this machine.",
    )
    batch_size: Count = Field(1, description="Samples per call for the latency.")

    @field_validator("params", "flops", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return number_with_unit(value, _UNITS, "a number such as 6M, or a share such as 0.25")

    @field_validator("latency", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        return number_with_unit(value, _MILLISECONDS, "a time such as 5ms")

    @model_validator(mode="after")
    def _one_size(self) -> TargetOptions:
        if self.params is not None and self.flops is not None:
            raise ValueError("targets of parameters and of FLOPs exclude each other: leave one of them out")
        return self

    @property
    def asked(self) -> bool:
        """Whether there is any budget."""
        return any(value is not None for value in (self.params, self.flops, self.latency))

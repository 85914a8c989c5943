"""The whole recipe."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from compressor.recipe.data import CalibrationOptions, DataOptions, EvaluationOptions
from compressor.recipe.delivery import BenchOptions, ExportOptions
from compressor.recipe.finetune import FinetuneOptions
from compressor.recipe.fusion import FusionOptions
from compressor.recipe.section import Count, Section
from compressor.recipe.target import TargetOptions
from compressor.utils.revisions import at_revision


class Recipe(Section):
    """All options of a run; a recipe reproduces it."""

    teachers: tuple[str, ...] = Field(min_length=1, description="Local folders, built-in names or Hub ids.")
    revision: str | None = Field(
        None,
        min_length=1,
        description="Branch, tag or commit of the Hub for all teachers; for one of them write NAME@REVISION instead.",
    )
    trust_remote_code: bool = Field(
        False,
        description="Run code that lies in the models' folders (auto_map): read it first, it can do anything here.",
    )
    student: str | None = Field(
        None, description="A narrow model to finetune instead of a fusion; width is ignored then."
    )
    output: str = Field("student", description="Folder to write; refused if it exists, unless --force.")
    width: float = Field(
        0.5, description="Residual width of the student as a share of the widest teacher's, in (0, 1]."
    )
    target: TargetOptions = TargetOptions()
    depth: float | int | None = Field(
        None,
        description="Layers of the student: a share of the deepest teacher's, such as 0.5, or a number of layers, such "
        "as 6; as many as the deepest teacher's if omitted.",
    )
    data: DataOptions = DataOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    fusion: FusionOptions = FusionOptions()
    finetune: FinetuneOptions = FinetuneOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    bench: BenchOptions = BenchOptions()
    export: ExportOptions = ExportOptions()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of every random choice.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the written student; auto: that of the teachers' files (of the given student's).",
    )
    device: str = Field("cpu", description="Torch device, e.g. cpu, cuda, cuda:1.")
    threads: Count | None = Field(
        None,
        description="Threads of torch and ONNX Runtime in every stage; those of OMP_NUM_THREADS, or else one a core, "
        "if omitted.",
    )

    @model_validator(mode="before")
    @classmethod
    def _teachers_of_the_revision(cls, values: Any) -> Any:
        """Write the revision into the teachers' names, by which they are found."""
        if not isinstance(values, dict):
            return values
        revision, teachers = values.get("revision"), values.get("teachers")
        if not isinstance(revision, str) or not isinstance(teachers, list | tuple):
            return values
        named = [at_revision(name, revision) if isinstance(name, str) else name for name in teachers]
        return {**values, "teachers": named}

    @field_validator("width")
    @classmethod
    def _width_is_a_share(cls, width: float) -> float:
        if not math.isfinite(width) or not 0 < width <= 1:
            raise ValueError("a width must be above 0 and at most 1")
        return width

    @field_validator("depth", mode="before")
    @classmethod
    def _depth_is_a_share_or_a_number(cls, depth: Any) -> Any:
        if depth is None or (type(depth) is int and depth >= 1):
            return depth
        if type(depth) is not float or not 0 < depth <= 1:
            raise ValueError("a depth is a share above 0 and at most 1, or a whole number of layers")
        return depth

    @model_validator(mode="after")
    def _one_thing_gives_the_width(self) -> Recipe:
        given = {
            "width (--width)": "width" in self.model_fields_set,
            "an anchor (--anchor)": self.fusion.anchor is not None,
            "a student": self.student is not None,
        }
        both = [name for name, there in given.items() if there]
        if self.target.asked and both:
            raise ValueError(
                f"a target (--target-params, --target-flops, --max-latency) picks the width, which {both[0]} gives: "
                "leave one of them out"
            )
        if self.target.asked and self.fusion.ratios.given:
            raise ValueError(
                "a target (--target-params, --target-flops, --max-latency) narrows all sizes alike: leave --hidden, "
                "--ffn, --heads and --part out"
            )
        return self

    @model_validator(mode="after")
    def _one_weight_per_teacher(self) -> Recipe:
        weights = self.fusion.weights
        if not isinstance(weights, str) and (len(weights) != len(self.teachers) or sum(weights) <= 0):
            raise ValueError(
                f"fusion.weights needs one non-negative weight per teacher, not all zero: "
                f"{len(weights)} weights for {len(self.teachers)} teachers"
            )
        return self

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, with defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

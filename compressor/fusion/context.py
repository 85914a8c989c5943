"""What both ways of making a student start from: prepared teachers, the target, calibration samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from compressor.anatomy import Anatomy, Kind
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.shape.spec import StudentSpec
from compressor.fusion.teacher import FusionTeacher
from compressor.recipe import FusionOptions

#: Told the share done and what is being done.
OnProgress = Callable[[float, str], None]


class StageTimer:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True, eq=False)
class StudentCandidate:
    """A shape that the student may take.

    Attributes:
        target: the shape.
        model: of that shape; every weight of it is to be replaced.
        anatomy: of the model.
    """

    target: StudentSpec
    model: PreTrainedModel
    anatomy: Anatomy

    @property
    def heads(self) -> str:
        """Of its first attention."""
        found = [space for space in self.anatomy.spaces.values() if space.kind is Kind.ATTENTION]
        if not found:
            return "no attention"
        base = self.target.rotary_base
        turning = "" if base is None else f" (rotary base {base:.3g})"
        return f"{found[0].heads} heads of {found[0].head_dim}{turning}"


@dataclass(frozen=True, eq=False)
class FusionContext:
    """A student to be made.

    Attributes:
        sources: the teachers, their layers assigned to the student's.
        guide: the anchor, if there is one; one of the sources where it takes part itself.
        form: the student's shape, unless held-out samples speak for another.
        others: other shapes of the same width.
        anatomy: of the student; with a key for every site of the stream, where an anchor is aligned to.
        calibration: batches, the held-out ones last; None without data.
        held_out: how many of the last batches choose map and ridge.
        options: how to fuse.
        tell: progress.
        clock: of the report.
    """

    sources: Sequence[FusionTeacher]
    guide: FusionTeacher | None
    form: StudentCandidate
    others: Sequence[StudentCandidate]
    anatomy: Anatomy
    calibration: Sequence[Mapping[str, Tensor]] | None
    held_out: int
    options: FusionOptions
    tell: OnProgress
    clock: StageTimer = field(default_factory=StageTimer)

    @property
    def model(self) -> PreTrainedModel:
        """What the student is made in."""
        return self.form.model

    def of(self, form: StudentCandidate) -> FusionContext:
        """The same job with another shape."""
        return replace(self, form=form, anatomy=form.anatomy)

    @property
    def from_activations(self) -> bool:
        """Whether ground costs are measured on activations."""
        return self.calibration is not None and self.options.alignment.features != "weights"

    @property
    def refit(self) -> bool:
        """Whether weights are refitted: it needs data."""
        return self.options.refit and self.calibration is not None


@dataclass(frozen=True, eq=False)
class BuiltStudent:
    """A student and the report's words on how it was chosen.

    Attributes:
        form: its shape.
        student: built.
        choice: JSON-ready.
    """

    form: StudentCandidate
    student: StudentBuilder
    choice: dict[str, Any]

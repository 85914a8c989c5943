"""Students as results: they show what they are, and save what the command writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from compressor.api.views import FactView
from compressor.bench.rows import format_count
from compressor.bench.size import count_parameters
from compressor.errors import UserError
from compressor.fusion import FusionResult
from compressor.models.teacher import Teacher
from compressor.pipeline.scores.evaluation import short_names
from compressor.pipeline.teachers import common_data
from compressor.recipe import Recipe
from compressor.wording import quote

if TYPE_CHECKING:
    from compressor.api.kinds import Data
    from compressor.distillation.distill import FinetuneReport


@dataclass(frozen=True)
class Origin:
    """What made a student.

    Attributes:
        recipe: as far as a recipe can name it.
        warnings, remarks: lines for the report.
        seconds: by stage.
        calibration: batches without labels, if there were any.
    """

    recipe: Recipe
    teachers: Sequence[Teacher]
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    calibration: tuple[dict[str, Tensor], ...] = ()


class StudentResult(FactView):
    """A student that can be saved.

    Attributes:
        model: the student.
        origin: its teachers and options.
    """

    model: PreTrainedModel
    origin: Origin

    def save(
        self,
        folder: str | Path,
        *,
        data: Data = None,
        onnx: bool = False,
        formats: Sequence[str] = (),
        latency: bool = False,
        force: bool = False,
    ) -> Path:
        """Write the folder that `compress fuse` writes, whole or not at all: model, preprocessor, card, recipe, report.

        Args:
            data: samples to measure teachers, their ensemble and the student on, for card and report; see `evaluate`.
            onnx: also write ONNX files, compared with torch.
            formats: other formats too; see `export`.
            latency: also measure the latency of student and teachers.
            force: replace the output of a former run.

        Returns:
            The folder.

        Raises:
            UserError: an existing or unwritable folder, unusable data, or an unsupported format.
        """
        from compressor.api.save import SaveOptions, save_result

        if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            raise UserError(f"save: {quote(folder)} names no folder: say where the student goes, save('student')")
        names = ([formats] if isinstance(formats, str) else list(formats)) or (["onnx"] if onnx else [])
        if onnx and "onnx" not in names:
            names.insert(0, "onnx")
        return save_result(self, Path(folder), SaveOptions(data, tuple(names), latency, force))

    def _teachers(self) -> str:
        return " + ".join(short_names([teacher.name for teacher in self.origin.teachers])) or "labels alone"

    def _size(self) -> str:
        return f"{type(self.model).__name__}, {format_count(count_parameters(self.model))} parameters"


@dataclass(frozen=True, eq=False, repr=False)
class FusedStudent(StudentResult, FusionResult):
    """The result of `fuse`: a student and how it was made.

    Attributes:
        model: in evaluation mode and the teachers' precision.
        target: its shape.
        anatomy: its spaces and axes.
        report: choices, couplings, errors of the refit, seconds.
        passages: maps between residual streams, for hidden-state losses.
        origin: teachers, options, data.
    """

    origin: Origin = field(kw_only=True)

    def title(self) -> str:
        return f"FusedStudent: {self._size()}, of {self._teachers()}"

    def facts(self) -> list[tuple[str, str]]:
        target, choice = self.target, self.report.choice
        sizes = ", ".join(f"{name} {old:g} → {new:g}" for name, (old, new) in target.fields.items())
        weights = ", ".join(f"{weight:.3g}" for weight in choice["weights"].values())
        head = self.report.head
        fit = f"; held-out KL of the head's fit {head['kl']:.3g}" if head else ""
        return [
            ("width", f"{target.asked_width:g} asked, {target.given_width:.4g} given ({sizes})"),
            ("maps", f"{choice['residual']}; heads and units {choice['inner']}; attention {choice['attention']}"),
            ("fit", f"{'refitted' if choice['refit'] else 'weights alone'}, teachers weigh {weights}{fit}"),
            ("next", f'.save("student"), .model, .report ({self.report.seconds["total"]:.1f} s)'),
        ]


@dataclass(frozen=True, eq=False, repr=False)
class FinetunedStudent(StudentResult):
    """The result of `finetune`.

    Attributes:
        model: the student, trained in place.
        report: steps, losses, learning rate, seconds.
        fused: the result of `fuse` that it began as, if it was one.
        given: the student's name, otherwise.
        origin: teachers, options, data.
    """

    model: PreTrainedModel
    report: FinetuneReport
    origin: Origin
    fused: FusedStudent | None = None
    given: Teacher | None = None

    def title(self) -> str:
        return f"FinetunedStudent: {self._size()}, of {self._teachers()}"

    def facts(self) -> list[tuple[str, str]]:
        report = self.report
        first, last = report.loss[0][1], report.loss[-1][1]
        temperature = "labels alone" if report.temperature is None else f"temperature {report.temperature:g}"
        best = "the last" if report.best_step is None else f"step {report.best_step}, the best on held-out samples"
        return [
            ("steps", f"{report.steps} at learning rate {report.learning_rate:g}, {temperature}"),
            ("loss", f"{first:.4g} at the start, {last:.4g} at the end"),
            ("weights", f"of {best}"),
            ("next", f'.save("student"), .model, .report ({report.seconds:.1f} s)'),
        ]


def default_data(models: Any) -> str | None:
    """The data by name of built-in teachers and of results, where these agree; None without any."""
    entries = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    sources = {source for entry in entries if (source := _data_of(entry)) is not None}
    return sources.pop() if len(sources) == 1 else None


def _data_of(entry: Any) -> str | None:
    if isinstance(entry, StudentResult):
        recipe = entry.origin.recipe
        return recipe.data.source or common_data(list(recipe.teachers))
    return common_data([entry]) if isinstance(entry, str) else None

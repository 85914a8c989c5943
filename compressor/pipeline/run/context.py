"""A run before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from transformers import PreTrainedModel

from compressor.errors import UserError
from compressor.models.compatibility import check_compatible
from compressor.models.inherited.companions import Companions, read_companions
from compressor.models.inherited.generation import agreed_generation
from compressor.models.load import load_teacher
from compressor.models.teacher import ModelSpec, Teacher
from compressor.pipeline.run.initial_student import layer_maps_between
from compressor.pipeline.run.preflight import preflight, resolve_width
from compressor.pipeline.run.state import RunState
from compressor.pipeline.stages import StageReporter
from compressor.pipeline.teachers import load_ensemble
from compressor.recipe import Recipe
from compressor.utils import distributed
from compressor.utils.files import disk_full_as_user_error, work_folder


@dataclass(frozen=True)
class RunContext:
    """One run that holds its output.

    Attributes:
        recipe: resolved.
        budget: how the width was picked.
        teachers: on the CPU.
        given: student to finetune; None to fuse one.
        companions: what goes along with the student's weights.
        work: folder to resume from.
        remarks: more lines for the report.
        precision: of the written student.
    """

    recipe: Recipe
    budget: dict[str, Any] | None
    teachers: Sequence[Teacher]
    given: Teacher | None
    companions: Companions
    work: RunState
    resume: bool
    stages: StageReporter
    remarks: Sequence[str] = ()
    precision: torch.dtype = torch.float32

    @property
    def spec(self) -> ModelSpec:
        """Task and inputs of all models."""
        return self.teachers[0].spec

    @property
    def processor(self) -> Any | None:
        """The teachers' preprocessor or tokenizer."""
        return self.teachers[0].processor

    @property
    def models(self) -> list[PreTrainedModel]:
        """The teachers' models."""
        return [teacher.model for teacher in self.teachers]

    @property
    def fingerprints(self) -> list[str]:
        """The teachers' fingerprints."""
        return [teacher.fingerprint for teacher in self.teachers]

    @property
    def notes(self) -> list[str]:
        """Lines on the models."""
        models = [*self.teachers, *([self.given] if self.given else [])]
        lines = [*self.remarks, *(note for model in models for note in model.notes)]
        if self.given is None:
            lines += agreed_generation([(teacher.name, teacher.model) for teacher in self.teachers])[1]
        lines += self.companions.notes
        if not self.spec.task.metrics and self.recipe.data.source is not None and self.recipe.finetune.enabled:
            lines.append(f"{_without_score(self.spec)}: there is no answer to finetune on or to measure")
        return lines


def _without_score(spec: ModelSpec) -> str:
    """Why models are fused and exported only."""
    if spec.task.name == "features":
        return "models without a head are fused only"
    return (
        f"no score is known for what {(spec.config.architectures or [''])[0]} answers, so it is fused and exported only"
    )


def prepare_run(recipe: Recipe, force: bool, resume: bool, stages: StageReporter) -> RunContext:
    """Resolve and check a recipe, and load its models.

    Raises:
        UserError: an impossible recipe, or an unusable model.
    """
    with stages("check", "checking names and options"):
        recipe, budget = resolve_width(recipe, force=force, resume=resume, stages=stages)
        recipe = preflight(recipe, force=force)
        distributed.init(recipe.device)
    cache = "to the cache of built-in teachers"
    with stages("load", "loading the teachers") as progress, disk_full_as_user_error(cache):
        given = None if recipe.student is None else load_teacher(recipe.student)
        teachers = load_ensemble(
            recipe.teachers,
            progress,
            recipe.fusion.classes,
            student=given,
            streamed=recipe.fusion.max_memory is not None and given is None,
        )
        if given is not None:
            _check_student(recipe, given, teachers)
    work = RunState(work_folder(recipe.output), _run_key(recipe, teachers, given))
    companions = read_companions([given] if given else teachers, teachers[0].processor)
    precision = _precision(recipe, teachers if given is None else [given])
    return RunContext(recipe, budget, teachers, given, companions, work, resume, stages, precision=precision)


def _precision(recipe: Recipe, models: Sequence[Teacher]) -> torch.dtype:
    """The precision of the written student."""
    if recipe.dtype != "auto":
        asked: torch.dtype = getattr(torch, recipe.dtype)
        return asked
    return reduce(torch.promote_types, [model.precision for model in models])


def _check_student(recipe: Recipe, student: Teacher, teachers: Sequence[Teacher]) -> None:
    check_compatible([teachers[0], student])
    if "hidden" in recipe.finetune.named_losses and not layer_maps_between(student, teachers):
        raise UserError(
            f"{student.name} keeps no transport from these teachers, which finetune.losses: hidden needs: name those "
            "that it was fused from, or leave hidden out"
        )


def _run_key(recipe: Recipe, teachers: Sequence[Teacher], given: Teacher | None) -> dict[str, Any]:
    """What a resumed run must share with the interrupted one."""
    values = recipe.model_dump(mode="json")
    # The same student comes of any memory, as long as it is limited.
    values["fusion"]["max_memory"] = recipe.fusion.max_memory is not None
    keys = ("teachers", "student", "width", "depth", "data", "calibration", "fusion", "finetune", "seed", "dtype")
    fingerprints = [teacher.fingerprint for teacher in (*teachers, *([given] if given else []))]
    return {**{key: values[key] for key in keys}, "weights of a model": fingerprints}

"""The finetune behind `compressor.finetune`: checked, loaded, read, trained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.api.fuse import unnamed
from compressor.api.keywords import keyword_names, recipe_sections
from compressor.api.kinds import GivenData, kind_of_data
from compressor.api.models import check_names, fitted_together, list_models, load_models, names_of, one_model
from compressor.api.samples import DataReader, check_source
from compressor.api.student import FinetunedStudent, FusedStudent, Origin, default_data
from compressor.data.samples import collate
from compressor.distillation.distill import FinetuneReport, train_student
from compressor.distillation.logit_cache import read_samples
from compressor.distillation.objective import FeatureTargets
from compressor.ensemble.stacking import Mixture
from compressor.errors import UserError
from compressor.fusion.classes import fit_lacking_classes
from compressor.layer_maps import attention_pairs_of
from compressor.models.teacher import Teacher
from compressor.pipeline.run.initial_student import layer_maps_between
from compressor.recipe import Recipe, build_recipe


@dataclass(frozen=True)
class _Job:
    """A finetune whose arguments were checked."""

    student: str | PreTrainedModel
    teachers: Sequence[str | PreTrainedModel]
    fused: FusedStudent | None
    given: GivenData
    recipe: Recipe
    processor: Any

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> _Job:
        """Check the arguments by their types alone."""
        given_student, call = arguments["student"], arguments["call"]
        fused = given_student.fused if isinstance(given_student, FinetunedStudent) else given_student
        fused = fused if isinstance(fused, FusedStudent) else None
        student = one_model(given_student, f"{call}: student")
        if arguments["teachers"] is None and fused is not None:
            teachers: list[str | PreTrainedModel] = [teacher.model for teacher in fused.origin.teachers]
        elif arguments["teachers"] is None:
            raise UserError(f"{call}: teachers is missing: name them, or give [] with distil_weight=0 and labels")
        else:
            fused = None
            teachers = list_models(
                arguments["teachers"], f"{call}: teachers", empty=True, revision=arguments["revision"]
            )
        data = arguments["data"]
        if data is None:
            data = default_data([given_student] if fused else arguments["teachers"])
        given = kind_of_data(data, f"{call}: data")
        recipe = _recipe(arguments, _student_name(student), names_of(teachers), fused, given)
        if not teachers and recipe.finetune.asks_teachers:
            raise UserError(f"{call}: there are no teachers: name one, or give distil_weight=0 to learn labels alone")
        return cls(student, teachers, fused, given, recipe, arguments["processor"])

    @property
    def models(self) -> list[str | PreTrainedModel]:
        """The student and what is to be loaded with it."""
        return [self.student, *([] if self.fused else self.teachers)]

    def load(self) -> tuple[Teacher, list[Teacher]]:
        """The student and the teachers; those of a fusion are there already."""
        (student,) = load_models([self.student], names=[_student_name(self.student)], processor=self.processor)
        if self.fused is not None:
            return student, list(self.fused.origin.teachers)
        return student, load_models(self.teachers, processor=self.processor)


def _student_name(student: str | PreTrainedModel) -> str:
    return student if isinstance(student, str) else "the student"


def _recipe(
    arguments: Mapping[str, Any], student: str, teachers: Sequence[str], fused: FusedStudent | None, given: GivenData
) -> Recipe:
    """The recipe of the finetune, or of the fusion with it."""
    sections = recipe_sections(arguments, "finetune", "data")
    keywords = keyword_names(sections)
    data = sections["data"] | {"source": given.value if given.kind == "source" else None}
    common: dict[str, Any] = {"finetune": sections["finetune"], "device": arguments["device"]}
    if fused is not None:
        values = fused.origin.recipe.model_dump() | common
        values["data"] = data if given.kind == "source" else values["data"]
    else:
        # A recipe needs a teacher, labels alone need none.
        values = {"teachers": list(teachers) or [student], "student": student, "data": data, "seed": arguments["seed"]}
        values["trust_remote_code"] = arguments["trust_remote_code"]
        values |= common | {"fusion": {"classes": arguments["classes"]}}
    return build_recipe(values, where=arguments["call"], names=keywords | {"fusion.classes": "classes"})


def _train(
    arguments: Mapping[str, Any],
    recipe: Recipe,
    student: Teacher,
    teachers: Sequence[Teacher],
    train: Any,
    fused: FusedStudent | None,
) -> FinetuneReport:
    passages = arguments["passages"] or (fused.passages if fused else layer_maps_between(student, teachers))
    relations = "relations" in recipe.finetune.named_losses
    configs = [teacher.config for teacher in teachers]
    pairs = attention_pairs_of(student.config, configs) if relations else ()
    mixture = Mixture(tuple([1.0] * len(teachers)))
    if arguments["teacher_weights"]:
        mixture = Mixture(tuple(arguments["teacher_weights"]))
    elif fused is not None:
        mixture = Mixture.from_report(fused.report.mixture)
    with ExitStack() as stack:
        folder = arguments["work_dir"] or stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-"))
        return train_student(
            student.model,
            [teacher.model for teacher in teachers],
            mixture.weights,
            train,
            recipe.finetune,
            seed=arguments["seed"],
            work_dir=Path(folder),
            resume=arguments["resume"],
            device=arguments["device"],
            progress=arguments["progress"],
            targets=FeatureTargets(passages, pairs),
            mixing=mixture.mixing,
        )


def _fit_classes(teachers: Sequence[Teacher], train: Any, recipe: Recipe) -> list[str]:
    """Fit classes that teachers lack to as many training samples as a calibration has; lines on it."""
    if not any(teacher.lacking for teacher in teachers):
        return []
    size, count = recipe.calibration.batch_size, min(recipe.calibration.samples, len(train))
    starts, pad = range(0, count, size), teachers[0].spec.pad_id
    rows = (read_samples(train, range(start, min(start + size, count))) for start in starts)
    return fit_lacking_classes(teachers, [collate(samples, pad) for samples in rows])


def run_finetune(arguments: Mapping[str, Any]) -> FinetunedStudent:
    """Check everything that needs no network, then load, read and train."""
    if arguments["resume"] and arguments["work_dir"] is None:
        raise UserError(f"{arguments['call']}: resume needs work_dir, the folder of the interrupted run")
    job = _Job.of(arguments)
    check_names(job.models)
    check_source(job.given)
    student, teachers = job.load()
    fused, recipe = job.fused, job.recipe
    if recipe.fusion.classes != "same" and fused is None:
        teachers = fitted_together(teachers, recipe.fusion.classes, student)
    train = DataReader(job.given, teachers or [student], recipe, f"{arguments['call']}: data").training()
    fitted = [] if fused is not None else _fit_classes(teachers, train, recipe)
    report = _train(arguments, recipe, student, teachers, train, fused)
    seconds = {**(fused.origin.seconds if fused else {}), "finetune": report.seconds}
    remarks = fitted + unnamed([*teachers, *([] if fused else [student])], job.given)
    if isinstance(arguments["student"], FinetunedStudent):
        remarks += [
            *arguments["student"].origin.remarks,
            "finetuned more than once: the recipe has the last time alone",
        ]
    if fused is not None and arguments["seed"] != recipe.seed:
        remarks.append(f"the finetune's seed was {arguments['seed']}, and the recipe's is the fusion's, {recipe.seed}")
    warnings, calibration = (fused.origin.warnings, fused.origin.calibration) if fused else ((), ())
    origin = Origin(recipe, teachers, warnings, remarks, seconds, calibration)
    return FinetunedStudent(student.model, report, origin, fused, None if fused else student)

"""Saving a result as the command writes it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.api.kinds import GivenData, kind_of_data
from compressor.api.models import stored_processor
from compressor.api.samples import DataReader, check_source
from compressor.api.student import FinetunedStudent, FusedStudent, StudentResult
from compressor.ensemble.stacking import Mixture
from compressor.models.teacher import Teacher
from compressor.recipe import EvaluationOptions, Recipe, build_recipe

if TYPE_CHECKING:
    from compressor.pipeline.data_splits import RunData
    from compressor.pipeline.run.context import RunContext
    from compressor.pipeline.run.initial_student import InitialStudent


@dataclass(frozen=True)
class SaveOptions:
    """Arguments of `StudentResult.save`."""

    data: Any
    formats: tuple[str, ...]
    latency: bool
    force: bool


def save_result(result: StudentResult, folder: Path, options: SaveOptions) -> Path:
    """Write a result's folder; see `StudentResult.save`."""
    from compressor.export.formats import check_formats
    from compressor.pipeline.output.apart import recipe_inputs
    from compressor.pipeline.output.claim import claimed
    from compressor.pipeline.run.former import check_former
    from compressor.pipeline.run.output import write_output
    from compressor.utils.files import check_output, work_folder

    given = None if options.data is None else kind_of_data(options.data, "save: data", _most_evaluated())
    recipe = _recipe_of(result, folder, options)
    check_output(folder, check_former if options.force else None)
    check_source(given)
    calibration = result.origin.calibration
    check_formats(recipe.export.wanted, result.model.config, data=bool(calibration))
    with claimed(folder, recipe_inputs(recipe), more=[work_folder(folder)]):
        run = _context(result, recipe)
        run.work.check(resume=False, force=options.force)
        data = _data(run, given, calibration)
        before = _initial(result)
        evaluator, students = _evaluate(run, data, before)
        write_output(run, options.force, data, evaluator, before, _trained(result, students))
    return folder


def _most_evaluated() -> int | None:
    return EvaluationOptions().samples


def _recipe_of(result: StudentResult, folder: Path, options: SaveOptions) -> Recipe:
    """The recipe that makes the folder again, as far as it can name the inputs."""
    values = result.origin.recipe.model_dump()
    values["output"] = str(folder)
    values["export"] |= {"onnx": any(name.startswith("onnx") for name in options.formats)}
    if options.formats:
        values["export"] |= {"formats": options.formats}
    values["bench"] |= {"latency": options.latency}
    if isinstance(options.data, str) and values["data"]["source"] is None:
        values["data"] |= {"source": options.data}
    return build_recipe(values, where="save")


def _context(result: StudentResult, recipe: Recipe) -> RunContext:
    from compressor.models.inherited.companions import read_companions
    from compressor.pipeline.run.context import RunContext
    from compressor.pipeline.run.state import RunState
    from compressor.pipeline.stages import StageReporter
    from compressor.utils.files import work_folder

    origin = result.origin
    teachers = list(origin.teachers) or [_student_as_teacher(result)]
    teachers[0] = replace(teachers[0], processor=stored_processor(teachers))
    stages = StageReporter(begun=time.perf_counter() - sum(origin.seconds.values()))
    del stages.seconds["start"]
    stages.seconds.update(origin.seconds)
    given = result.given if isinstance(result, FinetunedStudent) else None
    work = RunState(work_folder(recipe.output), {})
    companions = read_companions([given] if given else teachers, teachers[0].processor)
    return RunContext(
        recipe, None, teachers, given, companions, work, False, stages, origin.remarks, result.model.dtype
    )


def _student_as_teacher(result: StudentResult) -> Teacher:
    """A student that learned from labels alone stands where its teachers would."""
    assert isinstance(result, FinetunedStudent) and result.given is not None
    return result.given


def _data(run: RunContext, given: GivenData | None, calibration: tuple[Any, ...]) -> RunData | None:
    from compressor.pipeline.data_splits import RunData

    evaluation: Any = None
    if given is not None:
        with run.stages("data", f"reading {given.name}"):
            evaluation = DataReader(given, run.teachers, run.recipe, "save: data").evaluation()
    return None if evaluation is None and not calibration else RunData(calibration, None, evaluation)


def _initial(result: StudentResult) -> InitialStudent:
    from compressor.pipeline.run.initial_student import InitialStudent, student_of_fusion

    fused = result if isinstance(result, FusedStudent) else getattr(result, "fused", None)
    if fused is None:
        equal = Mixture(tuple([1.0] * len(result.origin.teachers)) or (1.0,))
        report: dict[str, Any] = {"target": None, "fusion": None, "warnings": [], "mixture": equal.report()}
        return InitialStudent(result.model, report)
    return student_of_fusion(fused, result.origin.warnings)


def _evaluate(run: RunContext, data: RunData | None, student: InitialStudent) -> tuple[Any, Any]:
    """Scores of teachers and ensemble, and the student's; None without samples."""
    from compressor.pipeline.scores.evaluation import Evaluator
    from compressor.utils.devices import on_device

    if data is None or data.evaluation is None:
        return None, None
    with run.stages("evaluate", "evaluating"), on_device([*run.models, student.model], run.recipe.device):
        mixture = Mixture.from_report(student.report["mixture"])
        evaluator = Evaluator(run.models, mixture.weights, data.evaluation, mixing=mixture.mixing)
        return evaluator, evaluator.score(student.model)


def _trained(result: StudentResult, score: Any) -> Any:
    from compressor.pipeline.run.output import TrainedStudents
    from compressor.pipeline.scores.evaluation import EvaluatedModel

    name = "finetuned" if isinstance(result, FinetunedStudent) else "one-shot"
    report = asdict(result.report) if isinstance(result, FinetunedStudent) else None
    return TrainedStudents([EvaluatedModel(name, (result.model,), 0, score)], report)

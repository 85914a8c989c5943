"""The main job: a recipe in, a finished folder out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import compressor
from compressor.bench.rows import to_json
from compressor.bench.size import weight_bytes
from compressor.data.batches import Samples
from compressor.distillation.objective import FeatureTargets
from compressor.errors import UserError
from compressor.layer_maps import AttentionPair, attention_pairs_of, save_layer_maps
from compressor.models.compatibility import check_compatible
from compressor.models.load import load_teacher
from compressor.models.save import fingerprint, save_student
from compressor.models.tasks import Task
from compressor.models.teacher import Teacher
from compressor.pipeline.apart import recipe_inputs
from compressor.pipeline.claim import Remark, claimed
from compressor.pipeline.data_splits import open_data, open_training
from compressor.pipeline.deliver import export_and_verify, time_models
from compressor.pipeline.environment import environment, peak_memory_bytes
from compressor.pipeline.evaluation import EvaluatedModel, Evaluator, describe_score, evaluated_teachers, make_rows
from compressor.pipeline.former import check_former
from compressor.pipeline.initial_student import InitialStudent, initial_student, layer_maps_between
from compressor.pipeline.output import write_documents, write_page
from compressor.pipeline.preflight import preflight, resolve_width
from compressor.pipeline.progress import OnStage, OnStageProgress, StageReporter
from compressor.pipeline.run_state import RunState, check_work
from compressor.pipeline.teachers import load_ensemble
from compressor.pipeline.timing import latency_report, sample_length
from compressor.recipe import Recipe
from compressor.utils import distributed
from compressor.utils.disk import disk_full_as_user_error
from compressor.utils.files import atomic_directory
from compressor.utils.work_folders import work_folder

#: So many times the KL of before, and so many nats more, are worth a warning after a finetune without labels.
HARMED, SLIGHT = 1.5, 0.01


def run_recipe(
    recipe: Recipe,
    *,
    force: bool = False,
    resume: bool = False,
    progress: OnStage | None = None,
    begun: float | None = None,
    file: str | Path | None = None,
    remark: Remark | None = None,
) -> dict[str, Any]:
    """Do what a recipe says and write its output folder, whole or not at all.

    Teachers are loaded and checked, fused (or the recipe's own student is taken), compared, finetuned if there is
    data, exported, timed and written.  An interrupted finetune leaves a work folder beside the output to resume from.

    Of processes that were launched together the first one does all that, and the others share the finetune.

    Args:
        recipe: what to do.
        force: replace an output folder that exists, and an interrupted run.
        resume: go on with an interrupted run of the same recipe, if there is one.
        progress: told of every stage.
        begun: when the command began, by `time.perf_counter`, if its start is to be counted.
        file: that the recipe was read from, which the output must not replace.
        remark: called with a line about everything that a killed run left beside the output.

    Returns:
        The report, as written to report.json; {} in a process that only shared the finetune.

    Raises:
        UserError: anything about the input, no space left, or another process writes the same output; nothing is
            written then.
    """
    stages = StageReporter(progress, begun)
    work = work_folder(recipe.output)
    with claimed(recipe.output, recipe_inputs(recipe, file), more=[work], remark=remark):
        check_work(work)
        return _run(recipe, force, resume, stages)


def _run(recipe: Recipe, force: bool, resume: bool, stages: StageReporter) -> dict[str, Any]:
    """Do what a recipe says, alone with its output."""
    with stages("check", "checking names and options"):
        recipe, budget = resolve_width(recipe, force=force, resume=resume, stages=stages)
        recipe = preflight(recipe, force=force)
        distributed.init(recipe.device)
    with stages("load", "loading the teachers") as tell, disk_full_as_user_error("to the cache of built-in teachers"):
        teachers = load_ensemble(recipe.teachers, tell)
        given = _given_student(recipe, teachers)
    task, length = teachers[0].spec.task, sample_length(teachers[0].config)
    notes = _notes(recipe, task, [*teachers, *([given] if given else [])])
    work = RunState(work_folder(recipe.output), _key(recipe, teachers, given))
    if not distributed.is_main_process():
        _share(recipe, teachers, work, resume, stages)
        return {}
    work.check(resume=resume, force=force)
    data, judge = None, None
    if recipe.data.source is not None:
        with stages("data", f"reading {recipe.data.source}"), disk_full_as_user_error("to the cache of datasets"):
            data = open_data(recipe, teachers[0].processor, teachers[0].config)
        if data.evaluation is not None:
            with stages("evaluate", "evaluating the teachers") as tell:
                _place(teachers, recipe.device)
                models, seen = [teacher.model for teacher in teachers], _telling(tell, "evaluating the teachers")
                judge = Evaluator(models, _weights(recipe), data.evaluation, progress=seen)
                _place(teachers, "cpu")
                tell(
                    1.0,
                    ", ".join(f"{one.name} {describe_score(one.score)}" for one in evaluated_teachers(teachers, judge)),
                )
    prints = [teacher.fingerprint for teacher in teachers]
    saved = work.load(prints) if resume else None
    beginning = saved or initial_student(recipe, teachers, given, data, stages)
    students = [_judged("as given" if given else "one-shot", beginning, teachers, judge, recipe, stages)]
    finetune = None
    if data is not None and data.train is not None and recipe.finetune.enabled:
        with disk_full_as_user_error(f"to {work.folder}"), work.kept_if_interrupted():
            if not saved:
                work.save(beginning, prints)
            distributed.barrier()
            finetune = _finetune(recipe, teachers, beginning, data.train, work, resume, stages, students[0])
        students.append(_judged("finetuned", beginning, teachers, judge, recipe, stages))
    replaceable = check_former if force else None
    with disk_full_as_user_error(f"to {recipe.output}"), atomic_directory(recipe.output, replaceable) as folder:
        with stages("write", "writing the student"):
            save_student(folder, beginning.model, teachers[0].processor)
            if beginning.passages:
                save_layer_maps(folder, beginning.passages, prints)
        delivered = export_and_verify(
            recipe.export,
            beginning.model,
            folder,
            stages,
            processor=teachers[0].processor,
            data=data,
            seed=recipe.seed,
            notes=notes,
        )
        size = weight_bytes(folder)
        subjects = [*evaluated_teachers(teachers, judge), *(replace(student, bytes=size) for student in students)]
        timings = time_models(recipe, subjects, folder if delivered.onnx else None, stages, notes)
        report = {
            "version": compressor.__version__,
            "task": task.name,
            "reads": teachers[0].spec.reads,
            "recipe": recipe.model_dump(mode="json"),
            "environment": environment(),
            "teachers": [_about(teacher) for teacher in teachers],
            # Of the files: what was written is read back once, and so known to load.
            "student": {"fingerprint": fingerprint(folder), "given": _about(given) if given else None},
            "budget": budget,
            **beginning.report,
            "warnings": [*beginning.report["warnings"], *_harm(recipe, students)],
            "finetune": finetune,
            "notes": notes,
            "length": length,
            "evaluation": judge.report() if judge else None,
            "table": to_json(make_rows(subjects, timings)),
            "latency": latency_report(timings, recipe.bench.batch_size, recipe.bench.seconds, length),
            "onnx": delivered.onnx,
            "formats": delivered.formats,
            "seconds": stages.report(),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        write_documents(folder, recipe, report)
    work.remove()
    # Last, from what was written: no picture is worth a finished student.
    write_page(recipe.output)
    return report


def _share(recipe: Recipe, teachers: Sequence[Teacher], work: RunState, resume: bool, stages: StageReporter) -> None:
    """Take part in the finetune of the first process, if there is one, once that has written the student down."""
    if recipe.data.source is None or not recipe.finetune.enabled or not teachers[0].spec.task.metrics:
        return
    train = open_training(recipe, teachers[0].processor, teachers[0].config)
    distributed.barrier()
    beginning = work.load([teacher.fingerprint for teacher in teachers])
    assert beginning is not None
    _finetune(recipe, teachers, beginning, train, work, resume, stages)


def _given_student(recipe: Recipe, teachers: Sequence[Teacher]) -> Teacher | None:
    if recipe.student is None:
        return None
    student = load_teacher(recipe.student)
    check_compatible([teachers[0], student])
    if "hidden" in recipe.finetune.losses and not layer_maps_between(student, teachers):
        raise UserError(
            f"{recipe.student} keeps no transport from these teachers, which finetune.losses: hidden needs: name those "
            "that it was fused from, or leave hidden out"
        )
    return student


def _key(recipe: Recipe, teachers: Sequence[Teacher], given: Teacher | None) -> dict[str, Any]:
    """What a run must have in common with an interrupted one to go on from it."""
    values = recipe.model_dump(mode="json")
    same = ("teachers", "student", "width", "depth", "data", "calibration", "fusion", "finetune", "seed")
    prints = [teacher.fingerprint for teacher in (*teachers, *([given] if given else []))]
    return {**{key: values[key] for key in same}, "weights of a model": prints}


def _weights(recipe: Recipe) -> list[float]:
    """The ensemble that the student is measured by and learns from: the user's weights, or all alike."""
    return [1.0] * len(recipe.teachers) if recipe.fusion.weights == "auto" else list(recipe.fusion.weights)


def _place(teachers: Sequence[Teacher], device: str) -> None:
    for teacher in teachers:
        teacher.model.to(device)  # type: ignore[arg-type]


def _judged(
    name: str,
    beginning: InitialStudent,
    teachers: Sequence[Teacher],
    judge: Evaluator | None,
    recipe: Recipe,
    stages: StageReporter,
) -> EvaluatedModel:
    found = None
    if judge is not None:
        with stages("evaluate", f"evaluating: {name}") as tell:
            if judge.asks_again:
                _place(teachers, recipe.device)
            seen = _telling(tell, f"evaluating: {name}")
            found = judge.score(beginning.model.to(recipe.device), seen)  # type: ignore[arg-type]
            beginning.model.to("cpu")  # type: ignore[arg-type]
            _place(teachers, "cpu")
            ensemble = f", ensemble {describe_score(judge.ensemble)}" if len(teachers) > 1 else ""
            tell(1.0, f"{name} {describe_score(found)}{ensemble}")
    return EvaluatedModel(name, (beginning.model,), 0, found)


def _telling(tell: OnStageProgress, line: str) -> Callable[[float], None]:
    return lambda share: tell(share, line)


def _finetune(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    beginning: InitialStudent,
    train: Samples,
    work: RunState,
    resume: bool,
    stages: StageReporter,
    before: EvaluatedModel | None = None,
) -> dict[str, Any]:
    # Imported only now: the Trainer takes long, and not every run finetunes.
    from compressor.distillation.distill import train_student
    from compressor.distillation.lr_search import describe_step

    so_far = "" if before is None or before.score is None else f"; {before.name} {describe_score(before.score)}"
    with stages("finetune", "finetuning") as tell:
        report = train_student(
            beginning.model,
            [teacher.model for teacher in teachers],
            _weights(recipe),
            train,
            recipe.finetune,
            seed=recipe.seed,
            cache_progress=lambda share: tell(share, "asking the teachers once for all"),
            targets=_comparison(recipe, teachers, beginning),
            work_dir=work.checkpoints,
            resume=resume,
            device=recipe.device,
            progress=lambda step, steps, loss: tell(
                step / steps, f"finetuning: {describe_step(step, recipe.finetune)}, loss {loss:.3f}{so_far}"
            ),
        )
        distributed.shutdown()
        _place(teachers, "cpu")
        beginning.model.to("cpu")  # type: ignore[arg-type]
    return asdict(report)


def _comparison(recipe: Recipe, teachers: Sequence[Teacher], beginning: InitialStudent) -> FeatureTargets:
    relations: tuple[AttentionPair, ...] = ()
    if "relations" in recipe.finetune.losses:
        relations = attention_pairs_of(beginning.model.config, [teacher.config for teacher in teachers])
    return FeatureTargets(beginning.passages, relations)


def _notes(recipe: Recipe, task: Task, models: Sequence[Teacher]) -> list[str]:
    """What the user should know, though nothing is wrong."""
    found = [note for model in models for note in model.notes]
    if not task.metrics and recipe.data.source is not None and recipe.finetune.enabled:
        found.append("models without a head are fused only: there is no answer to finetune on or to measure")
    return found


def _harm(recipe: Recipe, students: Sequence[EvaluatedModel]) -> Iterator[str]:
    """A warning where a distillation has led away from the ensemble."""
    first, last = (one.score.kl if one.score else None for one in (students[0], students[-1]))
    if first is None or last is None or recipe.finetune.label_weight or last <= max(HARMED * first, first + SLIGHT):
        return
    yield (
        f"the finetune took the student further from the ensemble (KL {first:.3g} before, {last:.3g} now): try more "
        f"--steps or --learning-rate search; --no-finetune leaves the student as it was"
    )


def _about(teacher: Teacher) -> dict[str, Any]:
    return {"name": teacher.name, "kind": teacher.source.kind, "fingerprint": teacher.fingerprint}

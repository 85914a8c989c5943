"""The main job: a recipe in, a finished folder out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import compressor
from compressor import processes
from compressor.anatomy.passages import Relation, save_passages
from compressor.bench.size import weight_bytes
from compressor.bench.table import to_json
from compressor.data.batches import Samples
from compressor.distillation.objective import Comparison
from compressor.errors import UserError
from compressor.fusion.passages import relations_of
from compressor.models.load import Teacher, check_compatible, load_teacher
from compressor.models.save import fingerprint, save_student
from compressor.models.staging import staged
from compressor.models.tasks import Task, find_task, reads
from compressor.pipeline.begin import Beginning, begin, passages_of
from compressor.pipeline.ensemble import load_ensemble
from compressor.pipeline.environment import environment, peak_memory_bytes
from compressor.pipeline.measure import latency_report, text_length
from compressor.pipeline.output import write_documents, write_page
from compressor.pipeline.places import work_folder
from compressor.pipeline.prove import prove, time_subjects
from compressor.pipeline.samples import open_data, open_training
from compressor.pipeline.settle import prepare, settle
from compressor.pipeline.space import told_when_full
from compressor.pipeline.stages import Progress, Stages, Tell
from compressor.pipeline.table import Judge, Subject, make_rows, say_score, teacher_subjects
from compressor.pipeline.work import Work
from compressor.recipe import Recipe

#: So many times the KL of before, and so many nats more, are worth a warning after a finetune without labels.
HARMED, SLIGHT = 1.5, 0.01


def run(
    recipe: Recipe,
    *,
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    begun: float | None = None,
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

    Returns:
        The report, as written to report.json; {} in a process that only shared the finetune.

    Raises:
        UserError: anything about the input, or no space left; nothing is written then.
    """
    stages = Stages(progress, begun)
    with stages("check", "checking names and options"):
        recipe, budget = settle(recipe, force=force, resume=resume, stages=stages)
        recipe = prepare(recipe, force=force)
        processes.join(recipe.device)
    with stages("load", "loading the teachers") as tell, told_when_full("to the cache of built-in teachers"):
        teachers = load_ensemble(recipe.teachers, tell)
        given = _given_student(recipe, teachers)
    task, length = find_task(teachers[0].config), text_length(teachers[0].config)
    notes = _notes(recipe, task, [*teachers, *([given] if given else [])])
    work = Work(work_folder(recipe.output), _key(recipe, teachers, given))
    if not processes.first():
        _share(recipe, teachers, work, resume, stages)
        return {}
    work.check(resume=resume, force=force)
    data, judge = None, None
    if recipe.data.source is not None:
        with stages("data", f"reading {recipe.data.source}"), told_when_full("to the cache of datasets"):
            data = open_data(recipe, teachers[0].processor, teachers[0].config)
        if data.evaluation is not None:
            with stages("evaluate", "evaluating the teachers") as tell:
                _place(teachers, recipe.device)
                models, seen = [teacher.model for teacher in teachers], _telling(tell, "evaluating the teachers")
                judge = Judge(models, _weights(recipe), data.evaluation, progress=seen)
                _place(teachers, "cpu")
                tell(1.0, ", ".join(f"{one.name} {say_score(one.score)}" for one in teacher_subjects(teachers, judge)))
    prints = [teacher.fingerprint for teacher in teachers]
    saved = work.load(prints) if resume else None
    beginning = saved or begin(recipe, teachers, given, data, stages)
    students = [_judged("as given" if given else "one-shot", beginning, teachers, judge, recipe, stages)]
    finetune = None
    if data is not None and data.train is not None and recipe.finetune.enabled:
        with told_when_full(f"to {work.folder}"), work.kept_if_interrupted():
            if not saved:
                work.save(beginning, prints)
            processes.wait()
            finetune = _finetune(recipe, teachers, beginning, data.train, work, resume, stages, students[0])
        students.append(_judged("finetuned", beginning, teachers, judge, recipe, stages))
    with told_when_full(f"to {recipe.output}"), staged(recipe.output, force) as folder:
        with stages("write", "writing the student"):
            save_student(folder, beginning.model, teachers[0].processor)
            if beginning.passages:
                save_passages(folder, beginning.passages, prints)
        delivered = prove(
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
        subjects = [*teacher_subjects(teachers, judge), *(replace(student, bytes=size) for student in students)]
        timings = time_subjects(recipe, subjects, folder if delivered.onnx else None, stages, notes)
        report = {
            "version": compressor.__version__,
            "task": task.name,
            "reads": reads(teachers[0].config),
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


def _share(recipe: Recipe, teachers: Sequence[Teacher], work: Work, resume: bool, stages: Stages) -> None:
    """Take part in the finetune of the first process, if there is one, once that has written the student down."""
    if recipe.data.source is None or not recipe.finetune.enabled or not find_task(teachers[0].config).metrics:
        return
    train = open_training(recipe, teachers[0].processor, teachers[0].config)
    processes.wait()
    beginning = work.load([teacher.fingerprint for teacher in teachers])
    assert beginning is not None
    _finetune(recipe, teachers, beginning, train, work, resume, stages)


def _given_student(recipe: Recipe, teachers: Sequence[Teacher]) -> Teacher | None:
    if recipe.student is None:
        return None
    student = load_teacher(recipe.student)
    check_compatible([teachers[0], student])
    if "hidden" in recipe.finetune.losses and not passages_of(student, teachers):
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
    beginning: Beginning,
    teachers: Sequence[Teacher],
    judge: Judge | None,
    recipe: Recipe,
    stages: Stages,
) -> Subject:
    found = None
    if judge is not None:
        with stages("evaluate", f"evaluating: {name}") as tell:
            if judge.asks_again:
                _place(teachers, recipe.device)
            seen = _telling(tell, f"evaluating: {name}")
            found = judge.score(beginning.model.to(recipe.device), seen)  # type: ignore[arg-type]
            beginning.model.to("cpu")  # type: ignore[arg-type]
            _place(teachers, "cpu")
            ensemble = f", ensemble {say_score(judge.ensemble)}" if len(teachers) > 1 else ""
            tell(1.0, f"{name} {say_score(found)}{ensemble}")
    return Subject(name, (beginning.model,), 0, found)


def _telling(tell: Tell, line: str) -> Callable[[float], None]:
    return lambda share: tell(share, line)


def _finetune(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    beginning: Beginning,
    train: Samples,
    work: Work,
    resume: bool,
    stages: Stages,
    before: Subject | None = None,
) -> dict[str, Any]:
    # Imported only now: the Trainer takes long, and not every run finetunes.
    from compressor.distillation.search import describe
    from compressor.distillation.trainer import distill

    so_far = "" if before is None or before.score is None else f"; {before.name} {say_score(before.score)}"
    with stages("finetune", "finetuning") as tell:
        report = distill(
            beginning.model,
            [teacher.model for teacher in teachers],
            _weights(recipe),
            train,
            recipe.finetune,
            seed=recipe.seed,
            told=lambda share: tell(share, "asking the teachers once for all"),
            comparison=_comparison(recipe, teachers, beginning),
            work_dir=work.checkpoints,
            resume=resume,
            device=recipe.device,
            progress=lambda step, steps, loss: tell(
                step / steps, f"finetuning: {describe(step, recipe.finetune)}, loss {loss:.3f}{so_far}"
            ),
        )
        processes.leave()
        _place(teachers, "cpu")
        beginning.model.to("cpu")  # type: ignore[arg-type]
    return asdict(report)


def _comparison(recipe: Recipe, teachers: Sequence[Teacher], beginning: Beginning) -> Comparison:
    relations: tuple[Relation, ...] = ()
    if "relations" in recipe.finetune.losses:
        relations = relations_of(beginning.model.config, [teacher.config for teacher in teachers])
    return Comparison(beginning.passages, relations)


def _notes(recipe: Recipe, task: Task, models: Sequence[Teacher]) -> list[str]:
    """What the user should know, though nothing is wrong."""
    found = [note for model in models for note in model.notes]
    if not task.metrics and recipe.data.source is not None and recipe.finetune.enabled:
        found.append("models without a head are fused only: there is no answer to finetune on or to measure")
    return found


def _harm(recipe: Recipe, students: Sequence[Subject]) -> Iterator[str]:
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

"""The main job: from a recipe to a finished folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from compressor.data.batches import Samples
from compressor.distillation.objective import FeatureTargets
from compressor.ensemble.stacking import Mixture
from compressor.errors import CheckpointWarning
from compressor.fusion.anchored.policies import POLICIES
from compressor.fusion.build.sentence_projection import refit_projection
from compressor.fusion.calibration.processes import ALONE, launched
from compressor.fusion.classes import fit_lacking_classes
from compressor.fusion.mixture import chooses_mixture, mixture_of
from compressor.fusion.streaming import Streaming, fixed_options
from compressor.layer_maps import attention_pairs_of
from compressor.models.precision import round_weights
from compressor.pipeline.data_splits import RunData, open_data, open_training
from compressor.pipeline.output.apart import recipe_inputs
from compressor.pipeline.output.claim import Remark, claimed
from compressor.pipeline.run.context import RunContext, prepare_run
from compressor.pipeline.run.initial_student import InitialStudent, initial_student
from compressor.pipeline.run.output import TrainedStudents, write_output
from compressor.pipeline.run.state import check_work
from compressor.pipeline.run.streaming import streaming_of
from compressor.pipeline.scores.evaluation import EvaluatedModel, Evaluator, describe_score, evaluated_teachers
from compressor.pipeline.stages import OnStage, OnStageProgress, StageReporter
from compressor.recipe import Recipe
from compressor.utils import distributed
from compressor.utils.consent import code_trusted
from compressor.utils.devices import moved_batches, on_device
from compressor.utils.files import disk_full_as_user_error, work_folder
from compressor.utils.logging import caught_warnings
from compressor.utils.threads import use_threads


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
    """Do the job of a recipe and write its output folder, whole or not at all.

    An interrupted finetune leaves a work folder to resume from. Processes launched together share the calibration
    samples of the fusion and the finetune.

    Args:
        force: replace the output and an interrupted run.
        resume: continue an interrupted run of the same recipe, if any.
        begun: start of the command, by `time.perf_counter`.
        file: of the recipe, never replaced.
        remark: called with a line on a killed run's remains.

    Returns:
        The report; {} in a process that only shared the work.

    Raises:
        UserError: bad input, a full disk, or a busy output; nothing is written.
    """
    stages = StageReporter(progress, begun)
    work = work_folder(recipe.output)
    with (
        code_trusted(recipe.trust_remote_code),
        claimed(recipe.output, recipe_inputs(recipe, file), more=[work], remark=remark),
        use_threads(recipe.threads),
    ):
        check_work(work)
        run = prepare_run(recipe, force, resume, stages)
        if not distributed.is_main_process():
            _share_fusion(run)
            _share_finetune(run)
            return {}
        run.work.check(resume=resume, force=force)
        data = _fit_classes(run, _open_data(run))
        mixture = _choose_mixture(run, data)
        evaluator = _evaluate_teachers(run, data, mixture)
        student, training = _make_student(run, data, evaluator, mixture)
        return write_output(run, force, data, evaluator, student, training)


def _open_data(run: RunContext) -> RunData | None:
    source = run.recipe.data.source
    if source is None:
        return None
    with run.stages("data", f"reading {source}"), disk_full_as_user_error("to the cache of datasets"):
        return open_data(run.recipe, run.processor, run.spec)


def _fit_classes(run: RunContext, data: RunData | None) -> RunData | None:
    """Give teachers rows for classes that they lack, as far as samples allow, with a line in the data's remarks."""
    if data is None or not any(teacher.lacking for teacher in run.teachers):
        return data
    with run.stages("classes", "fitting classes that teachers lack"), on_device(run.models, run.recipe.device):
        lines = fit_lacking_classes(run.teachers, moved_batches(data.labelled, run.models[0].device))
    return replace(data, remarks=tuple(lines))


def _choose_mixture(run: RunContext, data: RunData | None) -> Mixture:
    """How the teachers' predictions are mixed."""
    options, samples = run.recipe.fusion, None if data is None else data.labelled
    if options.max_memory is not None and run.given is None:
        # Predictions of all samples would cost passes over the disk.
        return mixture_of(run.models, None, fixed_options(options)[0])
    if not samples or not chooses_mixture(len(run.models), options):
        return mixture_of(run.models, None, options)
    message = "choosing how predictions are mixed"
    with run.stages("mixture", message) as progress, on_device(run.models, run.recipe.device):
        moved = moved_batches(samples, run.models[0].device)
        return mixture_of(run.models, moved, options, _with_message(progress, message))


def _evaluate_teachers(run: RunContext, data: RunData | None, mixture: Mixture) -> Evaluator | None:
    """Evaluate teachers and ensemble; None without samples."""
    if data is None or data.evaluation is None:
        return None
    message = "evaluating the teachers"
    with run.stages("evaluate", message) as progress:
        with on_device(run.models, run.recipe.device):
            on_share = _with_message(progress, message)
            evaluator = Evaluator(
                run.models, mixture.weights, data.evaluation, progress=on_share, mixing=mixture.mixing
            )
        models = evaluated_teachers(run.teachers, evaluator)
        progress(1.0, ", ".join(f"{model.name} {describe_score(model.score)}" for model in models))
    return evaluator


def _make_student(
    run: RunContext, data: RunData | None, evaluator: Evaluator | None, mixture: Mixture
) -> tuple[InitialStudent, TrainedStudents]:
    """Fuse or resume the student, finetune it in place if there is data, evaluate both."""
    saved = run.work.load(run.fingerprints) if run.resume else None
    configs = [teacher.config for teacher in run.teachers]
    streaming = streaming_of(run.recipe, configs, partial(run.work.layers, resume=run.resume))
    student = saved or _initial_student(run, data, mixture, streaming)
    trained = data is not None and data.train is not None and run.recipe.finetune.enabled
    if not trained:
        # What is evaluated is what will be stored.
        round_weights(student.model, run.precision)
    before = _evaluate_student(run, "as given" if run.given else "one-shot", student, evaluator)
    if data is None or data.train is None or not trained:
        return student, TrainedStudents([before], None)
    with disk_full_as_user_error(f"to {run.work.folder}"), run.work.kept_if_interrupted():
        if not saved:
            run.work.save(student, run.fingerprints)
        distributed.barrier()
        with caught_warnings(CheckpointWarning) as notes:
            finetune = _finetune(run, student, data.train, before)
        refit_projection(student.model, run.models[0], data.calibration, run.recipe.calibration.holdout)
    round_weights(student.model, run.precision)
    after = _evaluate_student(run, "finetuned", student, evaluator)
    return student, TrainedStudents([before, after], finetune, notes)


def _initial_student(
    run: RunContext, data: RunData | None, mixture: Mixture, streaming: Streaming | None
) -> InitialStudent:
    processes = launched() if _shares_fusion(run) else ALONE
    if processes.shared:
        # The first has made the work folder, in which others have theirs.
        distributed.barrier()
    return initial_student(
        run.recipe, run.teachers, run.given, data, mixture, run.stages, streaming,
        None if streaming is None else run.precision, processes,
    )  # fmt: skip


def _evaluate_student(
    run: RunContext, name: str, student: InitialStudent, evaluator: Evaluator | None
) -> EvaluatedModel:
    score = None
    if evaluator is not None:
        message = f"evaluating: {name}"
        with run.stages("evaluate", message) as progress:
            teachers = run.models if evaluator.runs_teachers else []
            with on_device([*teachers, student.model], run.recipe.device):
                score = evaluator.score(student.model, _with_message(progress, message))
            ensemble = f", ensemble {describe_score(evaluator.ensemble)}" if len(run.teachers) > 1 else ""
            progress(1.0, f"{name} {describe_score(score)}{ensemble}")
    return EvaluatedModel(name, (student.model,), 0, score)


def _with_message(progress: OnStageProgress, message: str) -> Callable[[float], None]:
    return lambda fraction: progress(fraction, message)


def _shares_fusion(run: RunContext) -> bool:
    """Whether processes share the fusion: samples are all that they share, and an alignment to an anchor uses few."""
    options = run.recipe.fusion
    anchored = options.anchor is not None or options.residual in POLICIES.names()
    return run.given is None and run.recipe.data.source is not None and not anchored


def _share_fusion(run: RunContext) -> None:
    """Take part in the first process's fusion; its student is the one that counts."""
    if not _shares_fusion(run) or (run.resume and run.work.load(run.fingerprints) is not None):
        return
    data = _fit_classes(run, _open_data(run))
    configs = [teacher.config for teacher in run.teachers]
    # The first process makes the folder that this one is in.
    folder = run.work.layers_of(distributed.rank())
    _initial_student(run, data, _choose_mixture(run, data), streaming_of(run.recipe, configs, lambda: folder))


def _share_finetune(run: RunContext) -> None:
    """Take part in the first process's finetune."""
    if run.recipe.data.source is None or not run.recipe.finetune.enabled or not run.spec.task.metrics:
        return
    if any(teacher.lacking for teacher in run.teachers):
        # The same rows as in the first process.
        _fit_classes(run, _open_data(run))
    train = open_training(run.recipe, run.processor, run.spec)
    distributed.barrier()
    student = run.work.load(run.fingerprints)
    assert student is not None
    _finetune(run, student, train)


def _finetune(
    run: RunContext, student: InitialStudent, train: Samples, before: EvaluatedModel | None = None
) -> dict[str, Any]:
    # Imported only now: the Trainer loads slowly.
    from compressor.distillation.distill import train_student
    from compressor.distillation.lr_search import describe_step

    recipe, mixture = run.recipe, Mixture.from_report(student.report["mixture"])
    score = "" if before is None or before.score is None else f"; {before.name} {describe_score(before.score)}"
    with run.stages("finetune", "finetuning") as progress:
        report = train_student(
            student.model,
            run.models,
            mixture.weights,
            train,
            recipe.finetune,
            seed=recipe.seed,
            cache_progress=_with_message(progress, "caching the teachers' logits"),
            targets=_feature_targets(run, student),
            mixing=mixture.mixing,
            work_dir=run.work.checkpoints,
            resume=run.resume,
            device=recipe.device,
            progress=lambda step, steps, loss: progress(
                step / steps, f"finetuning: {describe_step(step, recipe.finetune)}, loss {loss:.3f}{score}"
            ),
        )
        distributed.shutdown()
        # Training leaves it on the device.
        student.model.to("cpu")  # type: ignore[arg-type]
    return asdict(report)


def _feature_targets(run: RunContext, student: InitialStudent) -> FeatureTargets:
    if "relations" not in run.recipe.finetune.named_losses:
        return FeatureTargets(student.layer_maps, ())
    pairs = attention_pairs_of(student.model.config, [teacher.config for teacher in run.teachers])
    return FeatureTargets(student.layer_maps, pairs)

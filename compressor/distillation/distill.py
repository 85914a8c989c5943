"""The finetune of a student."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.data.samples import collate
from compressor.distillation import memory
from compressor.distillation.automatic import automatic_losses
from compressor.distillation.checkpoints import newest_checkpoint, prepare_checkpoints, step_of
from compressor.distillation.checks import (
    TrainingSamples,
    check_data,
    check_parts,
    check_precision,
    check_student,
    check_training_device,
)
from compressor.distillation.logit_cache import IndexedSamples, OnShare, read_samples
from compressor.distillation.lr_search import (
    LearningRateTrial,
    SearchResult,
    search_learning_rate,
    split_validation,
)
from compressor.distillation.objective import FeatureTargets, Objective, distillation_temperature
from compressor.distillation.tensorboard import check_tensorboard
from compressor.distillation.training import Diverged, OnStep, TrainingConfig
from compressor.ensemble.object_places import MOST_SAMPLES, in_one_order
from compressor.ensemble.probabilities import check_ensemble_weights
from compressor.errors import UserError
from compressor.models.builtin import cache_folder
from compressor.models.precision import raised
from compressor.models.tasks.table import task_of_model
from compressor.recipe import FinetuneOptions
from compressor.utils import distributed
from compressor.utils.devices import on_device

#: Folder of the logit cache, in the cache folder.
LOGITS = "logits"


@dataclass(frozen=True)
class FinetuneReport:
    """Measurements of a finetune.

    Attributes:
        seconds: of this call, with search.
        loss: (step, loss) of every step.
        learning_rate: peak.
        resumed_from: steps done before an interruption.
        judged: (step, validation loss).
        best_step: step of the student's weights; `None` for the last.
        losses: weights of losses in addition, by name.
    """

    steps: int
    seconds: float
    loss: tuple[tuple[int, float], ...]
    learning_rate: float
    temperature: float | None
    resumed_from: int | None
    search: tuple[LearningRateTrial, ...] = ()
    validation_samples: int = 0
    judged: tuple[tuple[int, float], ...] = ()
    best_step: int | None = None
    losses: dict[str, float] = field(default_factory=dict)


def train_student(
    student: PreTrainedModel,
    teachers: Sequence[PreTrainedModel],
    weights: Sequence[float],
    train: TrainingSamples,
    options: FinetuneOptions,
    *,
    seed: int,
    work_dir: Path,
    resume: bool = False,
    device: str = "cpu",
    progress: OnStep | None = None,
    cache_progress: OnShare | None = None,
    targets: FeatureTargets | None = None,
    mixing: float = 1.0,
) -> FinetuneReport:
    """Train `student` in place with AdamW, without dropout, weights in float32 meanwhile.

    Losses are means over the positions that count.  The same seed gives the same weights, bit for bit on the CPU,
    interrupted or not.  Processes launched together share every batch.

    Args:
        student: left in eval mode on the device; to resume, with its first weights.
        teachers: () if no loss needs them.
        train: dicts of tensors without batch dimension; "labels", [] or [T], are optional.
        seed: of sample order and validation split.
        device: "cpu" or "cuda" (first GPU).
        progress: called after every step.
        targets: for `hidden` and `relations`.
        mixing: of the teachers' predictions (`ensemble.mix_predictions`).

    Raises:
        UserError: unusable arguments; a loss that is not finite; checkpoints of another run.
    """
    _check(student, teachers, weights, train, options, device)
    options = _resolve_options(student, train, options, targets)
    distributed.init(device)
    prepare_checkpoints(work_dir, _run_identity(student, weights, mixing, train, options, seed), resume)
    ensemble, targets = _active_teachers(_matched(teachers, student, train), weights, options, targets)
    with on_device([teacher for teacher, _ in ensemble], device), raised(student):
        start = time.perf_counter()
        objective = Objective(student, ensemble, options, targets, mixing)
        train = _with_cached_logits(objective, train, cache_progress)
        train, validation = _hold_out(train, options, seed)
        config = TrainingConfig(student, train, objective, seed, device, validation if options.validate_every else None)
        result = _train(config, validation, work_dir, progress)
    return _report(result, time.perf_counter() - start, len(validation), student, options)


def _check(
    student: PreTrainedModel,
    teachers: Sequence[PreTrainedModel],
    weights: Sequence[float],
    train: TrainingSamples,
    options: FinetuneOptions,
    device: str,
) -> None:
    """Raise a `UserError` for what would fail later."""
    if options.asks_teachers:
        check_ensemble_weights(len(teachers), weights)
    check_student(student)
    check_data(train, options, task_of_model(student))
    check_training_device(device)
    check_precision(options, device)
    if options.tensorboard:
        check_tensorboard()


def _resolve_options(
    student: PreTrainedModel, train: TrainingSamples, options: FinetuneOptions, targets: FeatureTargets | None
) -> FinetuneOptions:
    """The options without "auto"."""
    resolved = options.model_copy(
        update={
            "accumulate": memory.batch_parts(student.config, train, options),
            "temperature": distillation_temperature(options, task_of_model(student)),
            "losses": automatic_losses(options, len(train), targets or FeatureTargets()),
        }
    )
    check_parts(resolved)
    return resolved


def _run_identity(
    student: PreTrainedModel,
    weights: Sequence[float],
    mixing: float,
    train: TrainingSamples,
    options: FinetuneOptions,
    seed: int,
) -> dict[str, Any]:
    """Values that a resumed run shares."""
    return {
        **options.model_dump(exclude={"enabled", "checkpoint_every", "tensorboard"}),
        "seed": seed,
        "weights": list(weights) if options.asks_teachers else [],
        # Absent from older checkpoints, which mixed probabilities; JSON has no infinity.
        "mixing": None if mixing == 1 else str(mixing),
        "samples": len(train),
        "parameters": student.num_parameters(),
        # None equals an absent key: older checkpoints of unsharded runs have none.
        "sharded": distributed.is_sharded() or None,
    }


def _active_teachers(
    teachers: Sequence[PreTrainedModel],
    weights: Sequence[float],
    options: FinetuneOptions,
    targets: FeatureTargets | None,
) -> tuple[list[tuple[PreTrainedModel, float]], FeatureTargets]:
    """Teachers with positive weights, and targets."""
    selected = [index for index, weight in enumerate(weights) if weight > 0] if options.asks_teachers else []
    ensemble = [(teachers[index].eval(), float(weights[index])) for index in selected]
    return ensemble, (targets or FeatureTargets()).of_teachers(selected)


def _matched(
    teachers: Sequence[PreTrainedModel], student: PreTrainedModel, train: TrainingSamples
) -> Sequence[PreTrainedModel]:
    """Detectors whose places are in the student's order, so that what they compute there can be compared."""
    if task_of_model(student).answers != "boxes" or not teachers:
        return teachers
    samples = read_samples(train, range(min(MOST_SAMPLES, len(train))))
    return in_one_order(teachers, [collate([sample]) for sample in samples], student)


def _with_cached_logits(objective: Objective, train: TrainingSamples, progress: OnShare | None) -> TrainingSamples:
    if not (objective.options.cache_logits and objective.options.asks_teachers):
        return train
    indexed = IndexedSamples(train)
    objective.cache_teacher_logits(indexed, cache_folder() / LOGITS, progress)
    return indexed


def _hold_out(train: TrainingSamples, options: FinetuneOptions, seed: int) -> tuple[TrainingSamples, TrainingSamples]:
    """Training and validation samples; the latter may be []."""
    if options.keeps_out:
        return split_validation(train, options, seed)
    return train, []


def _train(config: TrainingConfig, validation: TrainingSamples, folder: Path, progress: OnStep | None) -> SearchResult:
    """Train with the given learning rate, or search one."""
    options = config.objective.options
    config.student.requires_grad_(True)
    try:
        if options.learning_rate == "search":
            return search_learning_rate(config, validation, folder, progress)
        checkpoint = newest_checkpoint(folder)
        training = config.run(options.learning_rate, options.steps, folder, checkpoint, progress)
        return SearchResult(training, options.learning_rate, (), step_of(checkpoint))
    except Diverged as error:
        raise UserError(f"{error}; lower finetune.learning_rate") from None
    finally:
        config.student.eval()


def _report(
    result: SearchResult, seconds: float, validation_samples: int, student: PreTrainedModel, options: FinetuneOptions
) -> FinetuneReport:
    training = result.training
    return FinetuneReport(
        steps=training.steps,
        seconds=seconds,
        loss=training.losses,
        learning_rate=result.learning_rate,
        temperature=distillation_temperature(options, task_of_model(student)) if options.distil_weight else None,
        resumed_from=result.resumed_from or None,
        search=result.trials,
        validation_samples=validation_samples,
        judged=training.validation_losses,
        best_step=training.best_step,
        losses={name: loss.weight for name, loss in options.named_losses.items()},
    )

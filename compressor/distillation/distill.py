"""The short finetune of a student: distillation of the ensemble, labels, or both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from compressor.distillation import memory
from compressor.distillation.checkpoints import begin_checkpoints, newest_checkpoint, step_of
from compressor.distillation.checks import (
    TrainingSamples,
    check_data,
    check_parts,
    check_precision,
    check_student,
    check_training_device,
)
from compressor.distillation.logit_cache import IndexedSamples, OnShare
from compressor.distillation.lr_search import LearningRateTrial, search_learning_rate, split_validation
from compressor.distillation.objective import FeatureTargets, Objective, temperature
from compressor.distillation.tensorboard import check_tensorboard
from compressor.distillation.training import Diverged, OnStep, TrainingConfig
from compressor.ensemble import check_weights
from compressor.errors import UserError
from compressor.models.builtin import cache_folder
from compressor.models.precision import raised
from compressor.models.tasks import task_of_model
from compressor.recipe import FinetuneOptions
from compressor.utils import distributed

#: The folder in the cache that kept logits go to.
LOGITS = "logits"


@dataclass(frozen=True)
class FinetuneReport:
    """What a finetune did.

    Attributes:
        steps: optimiser steps of the training, without those of a search.
        seconds: of this call, a search included, without what was done before it was resumed.
        loss: (step, loss) of every step of the training, those before an interruption too.
        learning_rate: at its peak; the best one of a search.
        temperature: of the distillation; `None` without one.
        resumed_from: the step that this call went on from, counted over a search too; `None` if it began at the
            beginning.
        search: every learning rate that was tried; () if it was given.
        validation_samples: how many samples were kept out to judge by, and the training did not see.
        judged: (step, loss) of every judgement of the training on them.
        best_step: the step whose weights the student has; `None` for the last one.
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
    comparison: FeatureTargets | None = None,
    told: OnShare | None = None,
) -> FinetuneReport:
    """Train `student` in place on the teachers' mean distribution, on labels or on both; AdamW, cosine after a warm-up.

    The loss is the mean over the positions that count (`compressor.models.tasks`): one a sample for classifiers; every
    token that is no padding for taggers and decoders, every target token for encoder–decoders; and for masked language
    models every token too, masked or not, since the teachers' opinion is known of each.  Labels count where they are
    known.

    The student has no dropout meanwhile: it is to answer as the teachers do, who have none either.  Weights in
    half precision are in float32 meanwhile: they would lose small steps.

    The same seed gives the same weights, bit for bit on the CPU, and so does a run that was interrupted and resumed.

    Processes that `torchrun` or `accelerate launch` started together share every batch, and get what one of them would
    get, but for rounding; each must call this with the same arguments.

    Args:
        student: left in eval mode on the device.  To resume, with the weights that it had the first time.
        teachers: what the student learns from; they see each batch once, and are not changed.  Not run at all, and
            may be none, if no loss asks them.
        weights: one per teacher, as in `ensemble_kl`.
        train: samples as dicts of tensors without a batch dimension, such as "pixel_values" [C, H, W] or "input_ids"
            [T]; texts may differ in length.  "labels", [] or [T], which no model sees, are used if
            `options.label_weight` is above 0.
        options: steps, batch size, learning rate and so on; `enabled` is the caller's to heed.
        seed: of the order of the samples, and of those that a search of the learning rate keeps out.
        work_dir: where checkpoints are kept; theirs alone, and not removed afterwards.
        resume: go on from the newest finished checkpoint in `work_dir`, if there is one.
        device: "cpu", or the first GPU as "cuda".
        comparison: of the student and all teachers; the losses `hidden` and `relations` need it.
        told: told which share of the logits is kept, with `options.cache_logits`.
        progress: told of every step; those of a search are counted too (`compressor.distillation.lr_search.describe`).

    Raises:
        UserError: no samples, no labels where they are needed, wrong weights, no such device, a loss that is not
            finite (with any rate of a search), or `work_dir` holds the checkpoints of a run with other options.
    """
    distils = options.asks_teachers
    if distils:
        check_weights(len(teachers), weights)
    check_student(student)
    check_data(train, options)
    check_training_device(device)
    check_precision(options, device)
    definite = {
        "accumulate": memory.batch_parts(student.config, train, options),
        "temperature": temperature(options, task_of_model(student)),
    }
    options = options.model_copy(update=definite)
    check_parts(options)
    if options.tensorboard:
        check_tensorboard()
    distributed.init(device)
    run = {
        **options.model_dump(exclude={"enabled", "checkpoint_every", "tensorboard"}),
        "seed": seed,
        "weights": list(weights) if distils else [],
        "samples": len(train),
        "parameters": student.num_parameters(),
        # None, and so as if it were not there, where each process has all weights: as most checkpoints were written.
        "sharded": distributed.is_sharded() or None,
    }
    folder = Path(work_dir)
    begin_checkpoints(folder, run, resume)
    kept = [index for index, weight in enumerate(weights) if weight > 0] if distils else []
    ensemble = [(teachers[index], float(weights[index])) for index in kept]
    for teacher, _ in ensemble:
        teacher.to(torch.device(distributed.device_of(device))).eval()  # type: ignore[arg-type]
    student.requires_grad_(True)
    objective = Objective(student, ensemble, options, (comparison or FeatureTargets()).of(kept))
    begun = time.perf_counter()
    if options.cache_logits and distils:
        train = IndexedSamples(train)
        objective.keep(train, cache_folder() / LOGITS, told)
    with raised(student):
        try:
            validation: TrainingSamples = []
            if options.learning_rate == "search" or options.validate_every:
                train, validation = split_validation(train, options, seed)
            loop = TrainingConfig(
                student, train, objective, seed, device, validation if options.validate_every else None
            )
            if options.learning_rate == "search":
                found = search_learning_rate(loop, validation, folder, progress)
                trained, rate, trials = found.trained, found.learning_rate, found.trials
                resumed_from = found.resumed_from
            else:
                checkpoint = newest_checkpoint(folder)
                trials, rate, resumed_from = (), options.learning_rate, step_of(checkpoint)
                trained = loop.run(rate, options.steps, folder, checkpoint, progress)
        except Diverged as error:
            raise UserError(f"{error}; lower finetune.learning_rate") from None
        finally:
            student.eval()
    return FinetuneReport(
        steps=trained.steps,
        seconds=time.perf_counter() - begun,
        loss=trained.loss,
        learning_rate=rate,
        temperature=definite["temperature"] if options.distil_weight else None,
        resumed_from=resumed_from or None,
        search=trials,
        validation_samples=len(validation),
        judged=trained.judged,
        best_step=trained.best,
    )

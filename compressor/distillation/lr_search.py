"""The search of the learning rate: every rate of a grid tried from the same weights, judged by samples kept out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.data import Subset

from compressor.distillation.checkpoints import SEARCH, newest_checkpoint, read_as_user_error, step_of
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.training import Diverged, OnStep, TrainingConfig, TrainingResult
from compressor.errors import UserError
from compressor.recipe import FinetuneOptions
from compressor.utils import distributed
from compressor.utils.files import atomic_write_text
from compressor.utils.strict_json import json_text

#: Samples that a search is judged by at most: enough to tell rates apart, and quick to go through for each of them.
MOST_VALIDATION = 2048
_TRIALS = "trials.json"


@dataclass(frozen=True)
class LearningRateTrial:
    """One learning rate that was tried.

    Attributes:
        learning_rate: at its peak.
        validation_loss: in nats, of the samples that were kept out; None if the training diverged.
    """

    learning_rate: float
    validation_loss: float | None


@dataclass(frozen=True)
class SearchResult:
    """What a search, and the training with the rate that it chose, did.

    Attributes:
        trained: the training with the best rate.
        learning_rate: that rate.
        trials: of every rate, in the order of the grid.
        resumed_from: steps, over all trials and the training, that had been done before an interruption.
    """

    trained: TrainingResult
    learning_rate: float
    trials: tuple[LearningRateTrial, ...]
    resumed_from: int


def split_validation(
    samples: TrainingSamples, options: FinetuneOptions, seed: int
) -> tuple[TrainingSamples, TrainingSamples]:
    """The samples to train on and those to judge by, which are drawn by a permutation of the seed.

    Args:
        samples: at least 2.
        options: `validation` is the share to judge by: at least 1 sample, at most `MOST_VALIDATION`.
        seed: of the draw.
    """
    count = len(samples)
    kept_out = min(max(round(options.validation * count), 1), MOST_VALIDATION, count - 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    train, validation = order[kept_out:], order[:kept_out]
    return Subset(samples, train), Subset(samples, validation)  # type: ignore[arg-type]


def describe_step(done: int, options: FinetuneOptions) -> str:
    """What step `done` of a finetune is, counted as `steps_in_all` counts, such as "step 3 of 200"."""
    trial, step = divmod(done - 1, trial_steps(options))
    if options.learning_rate == "search" and trial < (rates := len(options.learning_rates)):
        return f"searching the learning rate: {trial + 1} of {rates}, step {step + 1} of {trial_steps(options)}"
    return f"step {done - searching_steps(options)} of {options.steps}"


def trial_steps(options: FinetuneOptions) -> int:
    """Steps of each trial."""
    return options.search_steps or options.steps


def searching_steps(options: FinetuneOptions) -> int:
    """Steps of all trials; 0 without a search."""
    return trial_steps(options) * len(options.learning_rates) if options.learning_rate == "search" else 0


def steps_in_all(options: FinetuneOptions) -> int:
    """Steps of all trials and of the training after them; the best trial, if as long as that, is not repeated."""
    return searching_steps(options) + (0 if _trial_is_training(options) else options.steps)


def search_learning_rate(
    loop: TrainingConfig, validation: TrainingSamples, folder: Path, progress: OnStep | None
) -> SearchResult:
    """Try every rate of the grid from the student's weights, and train with the best one.

    What is found is written down after every trial, so that an interrupted search goes on where it was.

    Args:
        loop: student, training samples and objective, whose options say what is tried.  If this is interrupted in a
            trial, the student is left with the weights that it had.
        validation: samples that the rates are judged by.
        folder: where checkpoints are written, and what is gone on from lies.
        progress: told of every step, counted over all trials and the training.

    Raises:
        UserError: every rate diverged, or the training with the best one did.
    """
    options = loop.objective.options
    kept = folder / SEARCH
    kept.mkdir(parents=True, exist_ok=True)
    trials = _read(kept)
    distributed.barrier()
    going_on = newest_checkpoint(folder if len(trials) == len(options.learning_rates) else _place(kept, len(trials)))
    resumed_from = trial_steps(options) * len(trials) + step_of(going_on)
    _try_all(loop, validation, kept, trials, progress)
    best = _best(trials)
    if best is None:
        tried = ", ".join(f"{trial.learning_rate:g}" for trial in trials)
        raise UserError(f"the finetune diverged with every learning rate of the search ({tried}): try lower ones")
    rate = trials[best].learning_rate
    final = _place(kept, best) if _trial_is_training(options) else folder
    try:
        # Of a trial that is the training there is a checkpoint of its last step, and nothing is left to do.
        trained = loop.run(
            rate, options.steps, final, newest_checkpoint(final), _after(progress, searching_steps(options), options)
        )
    except Diverged as error:
        raise UserError(
            f"{error}, with the learning rate {rate:g} that the search found best: "
            "lower finetune.learning_rates or raise finetune.search_steps"
        ) from None
    return SearchResult(trained, rate, tuple(trials), resumed_from)


def _try_all(
    loop: TrainingConfig,
    validation: TrainingSamples,
    folder: Path,
    trials: list[LearningRateTrial],
    progress: OnStep | None,
) -> None:
    """Add the trials that are missing; the student is left with the weights that it has."""
    options = loop.objective.options
    start = {name: value.detach().clone() for name, value in loop.student.state_dict().items()}
    try:
        for index in range(len(trials), len(options.learning_rates)):
            loop.student.load_state_dict(start)
            trials.append(_try(loop, validation, index, _place(folder, index), progress))
            if distributed.is_main_process():
                _write(folder, trials)
                _tidy(folder, trials, options)
            distributed.barrier()
    finally:
        loop.student.load_state_dict(start)


def _try(
    loop: TrainingConfig, validation: TrainingSamples, index: int, folder: Path, progress: OnStep | None
) -> LearningRateTrial:
    options = loop.objective.options
    rate, steps = options.learning_rates[index], trial_steps(options)
    try:
        loop.run(rate, steps, folder, newest_checkpoint(folder), _after(progress, index * steps, options))
    except Diverged:
        return LearningRateTrial(rate, None)
    loss = loop.objective.judge(loop.student, validation)
    return LearningRateTrial(rate, loss if math.isfinite(loss) else None)


def _trial_is_training(options: FinetuneOptions) -> bool:
    return options.learning_rate == "search" and trial_steps(options) == options.steps


def _after(progress: OnStep | None, before: int, options: FinetuneOptions) -> OnStep | None:
    """Progress of one training, told as that of all of them."""
    if progress is None:
        return None
    return lambda step, _, loss: progress(before + step, steps_in_all(options), loss)


def _best(trials: Sequence[LearningRateTrial]) -> int | None:
    """Which trial has the least loss; None if all of them diverged."""
    losses = {index: trial.validation_loss for index, trial in enumerate(trials) if trial.validation_loss is not None}
    return min(losses, key=losses.__getitem__, default=None)


def _place(folder: Path, index: int) -> Path:
    return folder / f"rate-{index + 1}"


def _tidy(folder: Path, trials: Sequence[LearningRateTrial], options: FinetuneOptions) -> None:
    """Remove the checkpoints of trials that are over, save for those of one that may be the training."""
    best = _best(trials) if _trial_is_training(options) else None
    for index in range(len(trials)):
        if index != best:
            shutil.rmtree(_place(folder, index), ignore_errors=True)


def _read(folder: Path) -> list[LearningRateTrial]:
    path = folder / _TRIALS
    if not path.exists():
        return []
    with read_as_user_error(path):
        return [LearningRateTrial(**trial) for trial in json.loads(path.read_text(encoding="utf-8"))]


def _write(folder: Path, trials: Sequence[LearningRateTrial]) -> None:
    atomic_write_text(folder / _TRIALS, json_text([asdict(trial) for trial in trials]))

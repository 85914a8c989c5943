"""Learning-rate search."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import PreTrainedModel

from compressor.distillation.checkpoints import SEARCH, newest_checkpoint, read_as_user_error, step_of
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.training import Diverged, OnStep, TrainingConfig, TrainingResult
from compressor.errors import UserError
from compressor.recipe import FinetuneOptions
from compressor.utils import distributed
from compressor.utils.checksums import is_broken, sealed
from compressor.utils.files import atomic_write_text
from compressor.utils.input_files import MIB, read_json
from compressor.utils.strict_json import json_text

#: Most validation samples: enough to compare rates, and quick to evaluate for each of them.
MAX_VALIDATION_SAMPLES = 2048
_TRIALS = "trials.json"


@dataclass(frozen=True)
class LearningRateTrial:
    """One learning rate; `validation_loss` in nats, None if diverged."""

    learning_rate: float
    validation_loss: float | None


@dataclass(frozen=True)
class SearchResult:
    """A training and the search before it; `resumed_from`: steps done before, trials included."""

    training: TrainingResult
    learning_rate: float
    trials: tuple[LearningRateTrial, ...]
    resumed_from: int


def split_validation(
    samples: TrainingSamples, options: FinetuneOptions, seed: int
) -> tuple[TrainingSamples, TrainingSamples]:
    """Training and validation samples, by `validation_rows`."""
    train, validation = validation_rows(len(samples), options.validation, seed)
    return Subset(samples, train), Subset(samples, validation)  # type: ignore[arg-type]


def validation_rows(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of training and validation samples, at random: of the latter 1 to `MAX_VALIDATION_SAMPLES`."""
    held_out = min(max(round(share * count), 1), MAX_VALIDATION_SAMPLES, count - 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[held_out:], order[:held_out]


def describe_step(done: int, options: FinetuneOptions) -> str:
    """Such as "step 3 of 200", over search and training."""
    trial, step = divmod(done - 1, trial_steps(options))
    if options.learning_rate == "search" and trial < (rates := len(options.learning_rates)):
        return f"searching the learning rate: {trial + 1} of {rates}, step {step + 1} of {trial_steps(options)}"
    return f"step {done - search_steps(options)} of {options.steps}"


def trial_steps(options: FinetuneOptions) -> int:
    """Steps of each trial."""
    return options.search_steps or options.steps


def search_steps(options: FinetuneOptions) -> int:
    """Steps of all trials."""
    return trial_steps(options) * len(options.learning_rates) if options.learning_rate == "search" else 0


def total_steps(options: FinetuneOptions) -> int:
    """Steps of search and training; a full-length best trial is the training."""
    return search_steps(options) + (0 if _trial_is_training(options) else options.steps)


def search_learning_rate(
    config: TrainingConfig, validation: TrainingSamples, folder: Path, progress: OnStep | None
) -> SearchResult:
    """Train with every rate of the grid, then with the best one, from the student's weights.

    The student stays as it was if no training helps on the validation samples.  An interrupted search resumes from its
    recorded trials and the initial weights.

    Raises:
        UserError: every rate diverged, or the final training.
    """
    options = config.objective.options
    search_folder = folder / SEARCH
    search_folder.mkdir(parents=True, exist_ok=True)
    trials = _read_trials(search_folder)
    distributed.barrier()
    config.student.to(distributed.device_of(config.device))  # type: ignore[arg-type]
    initial, initial_loss = _weights_of(config.student), config.objective.evaluate(config.student, validation)
    trials_done = len(trials) == len(options.learning_rates)
    checkpoint = newest_checkpoint(folder if trials_done else _trial_folder(search_folder, len(trials)))
    resumed_from = trial_steps(options) * len(trials) + step_of(checkpoint)
    _run_trials(config, validation, search_folder, trials, initial, progress)
    best = _best(trials)
    if best is None:
        rates = ", ".join(f"{trial.learning_rate:g}" for trial in trials)
        raise UserError(f"the finetune diverged with every learning rate of the search ({rates}): try lower ones")
    rate = trials[best].learning_rate
    training_folder = _trial_folder(search_folder, best) if _trial_is_training(options) else folder
    offset_progress = _with_offset(progress, search_steps(options), options)
    try:
        # If the trial is the training, its checkpoint of the last step is there and nothing is left to do.
        training = config.run(rate, options.steps, training_folder, newest_checkpoint(training_folder), offset_progress)
    except Diverged as error:
        raise UserError(
            f"{error}, with the learning rate {rate:g} that the search found best: "
            "lower finetune.learning_rates or raise finetune.search_steps"
        ) from None
    if training.best_step is None:
        loss = config.objective.evaluate(config.student, validation)
        if initial_loss <= loss:
            config.student.load_state_dict(initial)
            judged = ((0, initial_loss), (training.steps, loss))
            training = replace(training, validation_losses=judged, best_step=0)
    return SearchResult(training, rate, tuple(trials), resumed_from)


def _run_trials(
    config: TrainingConfig,
    validation: TrainingSamples,
    folder: Path,
    trials: list[LearningRateTrial],
    initial: Mapping[str, Tensor],
    progress: OnStep | None,
) -> None:
    """Append missing trials; the student has its `initial` weights again after them."""
    options = config.objective.options
    try:
        for index in range(len(trials), len(options.learning_rates)):
            config.student.load_state_dict(initial)
            trials.append(_run_trial(config, validation, index, _trial_folder(folder, index), progress))
            if distributed.is_main_process():
                values = {"trials": [asdict(trial) for trial in trials]}
                atomic_write_text(folder / _TRIALS, json_text(sealed(values)))
                _remove_checkpoints(folder, trials, options)
            distributed.barrier()
    finally:
        config.student.load_state_dict(initial)


def _run_trial(
    config: TrainingConfig, validation: TrainingSamples, index: int, folder: Path, progress: OnStep | None
) -> LearningRateTrial:
    options = config.objective.options
    rate, steps = options.learning_rates[index], trial_steps(options)
    try:
        config.run(rate, steps, folder, newest_checkpoint(folder), _with_offset(progress, index * steps, options))
    except Diverged:
        return LearningRateTrial(rate, None)
    loss = config.objective.evaluate(config.student, validation)
    return LearningRateTrial(rate, loss if math.isfinite(loss) else None)


def _weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _trial_is_training(options: FinetuneOptions) -> bool:
    return options.learning_rate == "search" and trial_steps(options) == options.steps


def _with_offset(progress: OnStep | None, before: int, options: FinetuneOptions) -> OnStep | None:
    """Progress over search and training."""
    if progress is None:
        return None
    return lambda step, _, loss: progress(before + step, total_steps(options), loss)


def _best(trials: Sequence[LearningRateTrial]) -> int | None:
    """Index of the least loss; None if all diverged."""
    losses = {index: trial.validation_loss for index, trial in enumerate(trials) if trial.validation_loss is not None}
    return min(losses, key=losses.__getitem__, default=None)


def _trial_folder(folder: Path, index: int) -> Path:
    return folder / f"rate-{index + 1}"


def _remove_checkpoints(folder: Path, trials: Sequence[LearningRateTrial], options: FinetuneOptions) -> None:
    """Remove checkpoints of finished trials, except a possible final training."""
    best = _best(trials) if _trial_is_training(options) else None
    for index in range(len(trials)):
        if index != best:
            shutil.rmtree(_trial_folder(folder, index), ignore_errors=True)


def _read_trials(folder: Path) -> list[LearningRateTrial]:
    path = folder / _TRIALS
    if not path.exists():
        return []
    with read_as_user_error(path):
        values = read_json(path, MIB)
        # Former versions wrote the list alone.
        if isinstance(values, dict) and is_broken(values):
            raise ValueError("it is damaged")
        return [LearningRateTrial(**trial) for trial in (values["trials"] if isinstance(values, dict) else values)]

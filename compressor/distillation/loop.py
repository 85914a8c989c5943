"""One training from the weights that the student has, on the Trainer of transformers."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from compressor.distillation.checkpoints import FINISHED
from compressor.distillation.checks import Samples
from compressor.distillation.draws import Draws
from compressor.distillation.objective import Objective
from compressor.errors import UserError
from compressor.models.quiet import quiet

WEIGHTS = "model.safetensors"

#: Called after each step with the steps done, the steps in all, and the loss of that step.
Progress = Callable[[int, int, float], None]


class Diverged(UserError):
    """The loss of a training is not finite."""


@dataclass(frozen=True)
class Trained:
    """What a training did.

    Attributes:
        steps: optimiser steps in all.
        loss: (step, loss) of every step, those before an interruption too.
    """

    steps: int
    loss: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Loop:
    """AdamW on an objective, cosine after a warm-up; what the trainings of one finetune have in common.

    Attributes:
        student: trained in place.
        samples: what it is trained on.
        objective: what it is trained for; its options are those of the training, save for rate and steps.
        seed: of the order of the samples.
        device: "cpu", or the first GPU as "cuda".
    """

    student: PreTrainedModel
    samples: Samples
    objective: Objective
    seed: int
    device: str

    def run(self, rate: float, steps: int, folder: Path, checkpoint: Path | None, progress: Progress | None) -> Trained:
        """Train from the student's weights, or go on from a checkpoint of the same training.

        Args:
            rate: learning rate at its peak.
            steps: optimiser steps.
            folder: where checkpoints are written.
            checkpoint: the one to go on from; None for the beginning.
            progress: told of every step.

        Raises:
            Diverged: a loss is not finite.
        """
        try:
            with quiet(), _random_state_kept():
                trainer = _Trainer(
                    self.student,
                    self._draws(steps),
                    self.objective,
                    args=self._arguments(rate, steps, folder),
                    callbacks=[_Watch(progress)],
                )
                trainer.remove_callback(PrinterCallback)
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            self.student.zero_grad(set_to_none=True)
        logged = trainer.state.log_history
        return Trained(
            trainer.state.global_step,
            tuple((int(entry["step"]), entry["loss"]) for entry in logged if "loss" in entry),
        )

    def _draws(self, steps: int) -> Draws:
        options = self.objective.options
        return Draws(
            self.samples,
            steps * options.batch_size,
            batch_size=options.batch_size,
            seed=self.seed,
            augment=options.augment,
        )

    def _arguments(self, rate: float, steps: int, folder: Path) -> TrainingArguments:
        options = self.objective.options
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=options.batch_size,
            optim="adamw_torch",
            learning_rate=rate,
            weight_decay=options.weight_decay,
            lr_scheduler_type="cosine",
            warmup_steps=round(options.warmup * steps),
            seed=self.seed,
            use_cpu=self.device == "cpu",
            save_strategy="steps",
            save_steps=options.checkpoint_every,
            # Two, so that one is finished whenever another is being written.
            save_total_limit=2,
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=[],
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
        )
        # Several GPUs would be used at once otherwise, each with a batch of its own.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments


class _Trainer(Trainer):
    def __init__(self, student: PreTrainedModel, draws: Draws, objective: Objective, **kwargs: Any) -> None:
        super().__init__(student, train_dataset=draws, data_collator=objective.collate, **kwargs)
        self.student = student
        self.objective: Objective = objective
        self.draws = draws

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.draws)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        # Without dropout, as the student was fitted: at a transported student's scales its noise drowns the signal.
        model.eval()
        loss, outputs = self.objective.loss(model, inputs, self.state.global_step / self.state.max_steps)
        return (loss, outputs) if return_outputs else loss

    # transformers saves some parameters under older names, and its Trainer, on resuming, silently leaves out what it
    # does not find by name.  Checkpoints are ours alone, so they keep the names that the modules have.

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.student, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        safetensors.torch.load_model(self.student, Path(resume_from_checkpoint) / WEIGHTS)


class _Watch(TrainerCallback):
    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise Diverged(f"the finetune diverged: the loss of step {state.global_step} is {logs['loss']}")
        if self.progress:
            self.progress(state.global_step, state.max_steps, logs["loss"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        (Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / FINISHED).touch()


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    # The Trainer seeds the global generators; what comes after a finetune must not depend on whether there was one.
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(min(torch.cuda.device_count(), 1))):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

"""One training run."""

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
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from compressor.distillation.checkpoints import BEST, read_as_user_error, step_of
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.damage import WEIGHTS, mark_finished
from compressor.distillation.dataset import TrainingStream
from compressor.distillation.memory import recompute_layers
from compressor.distillation.objective import Objective
from compressor.distillation.tensorboard import tensorboard
from compressor.distillation.trainer import DistillationTrainer
from compressor.errors import UserError
from compressor.utils import distributed
from compressor.utils.logging import quiet_transformers

#: Called after each step with the steps done, the total number of steps, and the loss of the step.
OnStep = Callable[[int, int, float], None]


class Diverged(UserError):
    """A training loss is not finite."""


@dataclass(frozen=True)
class TrainingResult:
    """Losses of a training, as (step, loss); `best_step`: of the student's weights, None for the last."""

    steps: int
    losses: tuple[tuple[int, float], ...]
    validation_losses: tuple[tuple[int, float], ...] = ()
    best_step: int | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """Settings that all runs of a finetune share, without learning rate and steps; device: "cpu" or "cuda"."""

    student: PreTrainedModel
    samples: TrainingSamples
    objective: Objective
    seed: int
    device: str
    validation: TrainingSamples | None = None

    def run(
        self, rate: float, steps: int, folder: Path, checkpoint: Path | None, progress: OnStep | None
    ) -> TrainingResult:
        """Train from the student's weights, or resume; `rate` is the peak learning rate.

        Raises:
            Diverged: a loss is not finite.
        """
        try:
            with quiet_transformers(), _preserved_random_state(), contextlib.ExitStack() as stack:
                trainer = DistillationTrainer(
                    self.student,
                    self._stream(steps),
                    self.objective,
                    self.validation,
                    args=self._arguments(rate, steps, folder, from_start=checkpoint is None),
                    callbacks=[_StepCallback(progress), *self._early_stopping(), *self._tensorboard(rate)],
                )
                trainer.remove_callback(PrinterCallback)
                stack.enter_context(recompute_layers(trainer.trained, self.objective.options.recompute))
                state = None if checkpoint is None else self._stopped_early(checkpoint)
                if state is None:
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                    state = trainer.state
                    trainer.gather()
                distributed.barrier()
                self.student.to(trainer.args.device)  # type: ignore[arg-type]
                if state.best_global_step is not None:
                    with read_as_user_error(folder / BEST):
                        safetensors.torch.load_model(self.student, folder / BEST / WEIGHTS)
        finally:
            self.student.zero_grad(set_to_none=True)
            # Remove the mixed-precision forward method that accelerate may have set.
            for name in ("forward", "_original_forward"):
                vars(self.student).pop(name, None)
        losses, validation_losses = (
            tuple((int(entry["step"]), entry[key]) for entry in state.log_history if key in entry)
            for key in ("loss", "eval_loss")
        )
        return TrainingResult(state.global_step, losses, validation_losses, state.best_global_step)

    def _tensorboard(self, rate: float) -> list[TrainerCallback]:
        folder = self.objective.options.tensorboard
        if not folder or not distributed.is_main_process():
            return []
        return [tensorboard(Path(folder).expanduser() / f"rate-{rate:g}")]

    def _early_stopping(self) -> list[TrainerCallback]:
        patience = None if self.validation is None else self.objective.options.patience
        return [] if patience is None else [EarlyStoppingCallback(patience)]

    def _stopped_early(self, checkpoint: Path) -> TrainerState | None:
        """The state where early stopping ended, if it did."""
        with read_as_user_error(checkpoint / TRAINER_STATE_NAME):
            state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if state.global_step != step_of(checkpoint):
                raise ValueError("it is of another checkpoint")
        callback = state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
        if not self._early_stopping() or not isinstance(callback, dict):
            return None
        waited = callback["attributes"]["early_stopping_patience_counter"]
        return state if waited >= (self.objective.options.patience or 0) else None

    def _stream(self, steps: int) -> TrainingStream:
        options = self.objective.options
        return TrainingStream(
            self.samples,
            steps * options.batch_size,
            batch_size=options.batch_size,
            seed=self.seed,
            augment=options.augment,
        )

    def _arguments(self, rate: float, steps: int, folder: Path, *, from_start: bool) -> TrainingArguments:
        options = self.objective.options
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=options.batch_size // (distributed.world_size() * options.parts),
            gradient_accumulation_steps=options.parts,
            bf16=options.precision == "bfloat16",
            fp16=options.precision == "float16",
            optim="adamw_torch",
            learning_rate=rate,
            weight_decay=options.weight_decay,
            lr_scheduler_type="cosine",
            warmup_steps=round(options.warmup * steps),
            seed=self.seed,
            use_cpu=self.device == "cpu",
            save_strategy="steps",
            save_steps=options.checkpoint_every,
            # Two: one is finished while the other is being written.
            save_total_limit=2,
            eval_strategy="no" if self.validation is None else "steps",
            eval_steps=options.validate_every,
            # The given student may be the best.
            eval_on_start=self.validation is not None and from_start,
            metric_for_best_model="loss",
            greater_is_better=False,
            restore_callback_states_from_checkpoint=True,
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
        # The Trainer would use all GPUs of the process, with a batch each.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments


class _StepCallback(TrainerCallback):
    """Reports steps, stops if a loss is not finite, evaluates last, marks checkpoints."""

    def __init__(self, progress: OnStep | None) -> None:
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

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Evaluate after the last step too, whatever `validate_every` is.
        if args.eval_strategy != "no" and state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Until all processes have written their part.
        distributed.barrier()
        if distributed.is_main_process():
            mark_finished(Path(args.output_dir or ".") / f"checkpoint-{state.global_step}")


@contextlib.contextmanager
def _preserved_random_state() -> Iterator[None]:
    # The Trainer seeds the global generators; later stages must not depend on whether there was a finetune.
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(min(torch.cuda.device_count(), 1))):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

"""The short distillation of the ensemble into the student, on the Trainer of transformers."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from compressor.data.collate import collate
from compressor.distillation.checkpoints import FINISHED, begin
from compressor.distillation.checks import Samples, check_data, check_device, check_student
from compressor.distillation.losses import check_weights, ensemble_kl, label_loss
from compressor.errors import UserError
from compressor.models.quiet import quiet
from compressor.models.tasks import pad_id, pass_options, task_of_model
from compressor.recipe import FinetuneOptions

WEIGHTS = "model.safetensors"

#: Called after each step with the steps done, the steps in all, and the loss of that step.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class FinetuneReport:
    """What a finetune did.

    Attributes:
        steps: optimiser steps in all.
        seconds: of this call, without what was done before it was resumed.
        loss: (step, loss) of every step, those before an interruption too.
        learning_rate: at its peak.
        resumed_from: the step that this call went on from; `None` if it began at the beginning.
    """

    steps: int
    seconds: float
    loss: tuple[tuple[int, float], ...]
    learning_rate: float
    resumed_from: int | None


def distill(
    student: PreTrainedModel,
    teachers: Sequence[PreTrainedModel],
    weights: Sequence[float],
    train: Samples,
    options: FinetuneOptions,
    *,
    seed: int,
    work_dir: Path,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FinetuneReport:
    """Train `student` in place on the teachers' mean distribution; AdamW, cosine after a warm-up.

    The loss is the mean over the positions that count (`compressor.models.tasks`): one a sample for classifiers; every
    token that is no padding for taggers and decoders, every target token for encoder–decoders; and for masked language
    models every token too, masked or not, since the teachers' opinion is known of each.

    The student has no dropout meanwhile: it is to answer as the teachers do, who have none either.

    The same seed gives the same weights, bit for bit on the CPU, and so does a run that was interrupted and resumed.

    Args:
        student: left in eval mode on the device.
        teachers: what the student learns from; they see each batch once, and are not changed.
        weights: one per teacher, as in `ensemble_kl`.
        train: samples as dicts of tensors without a batch dimension, such as "pixel_values" [C, H, W] or "input_ids"
            [T]; texts may differ in length.  "labels", [] or [T], which no model sees, are used if
            `options.label_weight` is above 0.
        options: steps, batch size, learning rate and so on; `enabled` is the caller's to heed.
        seed: of the order of the samples.
        work_dir: where checkpoints are kept; theirs alone, and not removed afterwards.
        resume: go on from the newest finished checkpoint in `work_dir`, if there is one.
        device: "cpu", or the first GPU as "cuda".

    Raises:
        UserError: no samples, no labels where they are needed, wrong weights, no such device, a loss that is not
            finite, or `work_dir` holds the checkpoints of a run with other options.
    """
    check_weights(len(teachers), weights)
    check_student(student)
    check_data(train, options)
    check_device(device)
    run = {
        **options.model_dump(exclude={"enabled", "checkpoint_every"}),
        "seed": seed,
        "weights": list(weights),
        "samples": len(train),
        "parameters": student.num_parameters(),
    }
    checkpoint = begin(Path(work_dir), run, resume)
    ensemble = [(teacher, float(weight)) for teacher, weight in zip(teachers, weights, strict=True) if weight > 0]
    for teacher, _ in ensemble:
        teacher.to(torch.device(device)).eval()  # type: ignore[arg-type]
    student.requires_grad_(True)
    begun = time.perf_counter()
    try:
        with quiet(), _random_state_kept():
            trainer = _Distiller(
                student,
                train,
                ensemble,
                options,
                args=_arguments(options, seed, Path(work_dir), device),
                callbacks=[_Watch(progress)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        student.zero_grad(set_to_none=True)
        student.eval()
    return FinetuneReport(
        steps=trainer.state.global_step,
        seconds=time.perf_counter() - begun,
        loss=tuple((int(entry["step"]), entry["loss"]) for entry in trainer.state.log_history if "loss" in entry),
        learning_rate=options.learning_rate,
        resumed_from=int(checkpoint.name.rpartition("-")[2]) if checkpoint else None,
    )


class _Order(Sampler[int]):
    """Permutations of all samples, one after the other, for all steps of a run.

    To the Trainer it is one epoch, so every batch is full and a run is resumed the same way wherever it stopped.
    """

    def __init__(self, samples: int, drawn: int, seed: int) -> None:
        self.samples = samples
        self.drawn = drawn
        self.seed = seed

    def __len__(self) -> int:
        return self.drawn

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(0, self.drawn, self.samples):
            yield from torch.randperm(self.samples, generator=generator).tolist()


class _Distiller(Trainer):
    def __init__(
        self,
        student: PreTrainedModel,
        train: Samples,
        ensemble: Sequence[tuple[PreTrainedModel, float]],
        options: FinetuneOptions,
        **kwargs: Any,
    ) -> None:
        joined = partial(collate, pad=pad_id(student.config))
        super().__init__(student, train_dataset=train, data_collator=joined, **kwargs)
        self.student = student
        self.task = task_of_model(student)
        self.pass_options = pass_options(student)
        self.order = _Order(len(train), options.steps * options.batch_size, self.args.seed)
        self.teachers = [teacher for teacher, _ in ensemble]
        self.weights = [weight for _, weight in ensemble]
        self.options = options

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels = inputs.pop("labels", None)
        with torch.no_grad():
            found = [teacher(**inputs, **self.pass_options).logits for teacher in self.teachers]
            targets = [self.task.counted(logits, inputs) for logits in found]
        # Without dropout, as the student was fitted: at a transported student's scales its noise drowns the signal.
        model.eval()
        outputs = model(**inputs, **self.pass_options)
        counted = self.task.counted(outputs.logits, inputs)
        loss = ensemble_kl(counted, targets, self.weights, self.options.temperature)
        if labels is not None and self.options.label_weight > 0:
            loss = loss + self.options.label_weight * label_loss(*self.task.answered(outputs.logits, labels))
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
            raise UserError(
                f"the finetune diverged: the loss of step {state.global_step} is {logs['loss']}; "
                "lower finetune.learning_rate"
            )
        if self.progress:
            self.progress(state.global_step, state.max_steps, logs["loss"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        (Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / FINISHED).touch()


def _arguments(options: FinetuneOptions, seed: int, work_dir: Path, device: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        optim="adamw_torch",
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=round(options.warmup * options.steps),
        seed=seed,
        use_cpu=device == "cpu",
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

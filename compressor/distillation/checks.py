"""Checks before a finetune."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.data.augment import PIXELS, check_augmentation
from compressor.errors import UnsupportedError, UserError
from compressor.models.tasks.table import task_of_model
from compressor.models.tasks.task import Task
from compressor.recipe import FinetuneOptions
from compressor.utils import distributed


class TrainingSamples(Protocol):
    """A torch `Dataset` or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


def check_student(student: PreTrainedModel) -> None:
    """Raise an `UnsupportedError` for a headless model."""
    if not task_of_model(student).metrics:
        raise UnsupportedError(f"{type(student).__name__} has no head that could learn what the teachers answer")


def check_data(train: TrainingSamples, options: FinetuneOptions, task: Task) -> None:
    """Check the training samples.

    Raises:
        UserError: too few samples, missing labels, or an augmentation that does not fit.
    """
    if len(train) == 0:
        raise UserError("nothing to finetune on: the training data has no samples")
    if options.keeps_out and len(train) < 2:
        feature = "a search of the learning rate" if options.learning_rate == "search" else "finetune.validate_every"
        raise UserError(f"{feature} needs 2 training samples, one to judge by: there is only 1")
    uses_labels = options.label_weight > 0
    check_labels_serve(options, task)
    if options.cache_logits and options.augment != "none":
        raise UserError("finetune.cache_logits is for samples that stay as they are: leave it or finetune.augment out")
    if options.cache_logits and any(loss.weight > 0 for loss in options.named_losses.values()):
        raise UserError(
            f"finetune.cache_logits keeps logits alone, and {', '.join(options.named_losses)} must see the teachers: "
            "leave it or finetune.losses out"
        )
    if options.augment != "none":
        check_augmentation(options.augment, images=PIXELS in train[0], labels=uses_labels, placed=task.placed_labels)
    if uses_labels:
        _check_labels(train, task, labels_only=not options.asks_teachers)


def check_labels_serve(options: FinetuneOptions, task: Task) -> None:
    """Raise a `UserError` for labels that no loss of the task takes."""
    if options.label_weight > 0 and task.answers == "embeddings":
        raise UserError(
            "sentence embeddings learn from the teachers' similarities, and labels only score them: leave "
            "finetune.label_weight (--label-weight) out"
        )


def _check_labels(train: TrainingSamples, task: Task, *, labels_only: bool) -> None:
    remedy = "name data with labels, or set finetune.distil_weight above 0" if labels_only else "set it to 0"
    if "labels" not in train[0]:
        raise UserError(f"finetune.label_weight is above 0 but the training data has no labels: {remedy}")
    # Without teachers and known labels nothing would be learnt, and no loss would show it.
    if labels_only and not any(bool(task.known(train[index]["labels"][None]).any()) for index in range(len(train))):
        raise UserError(f"no label of the training data is known: {remedy}")


def check_parts(options: FinetuneOptions) -> None:
    """Raise a `UserError` for batches that cannot be split evenly."""
    parts = distributed.world_size() * options.parts
    if options.batch_size % parts:
        raise UserError(
            f"finetune.batch_size {options.batch_size} cannot be shared by {distributed.world_size()} processes in "
            f"{options.parts} parts each: give a multiple of {parts}"
        )


def check_training_device(device: str) -> None:
    """Check the device.

    Raises:
        UnsupportedError: the Trainer does not support it.
        UserError: torch does not see it.
    """
    if device not in ("cpu", "cuda", "cuda:0"):
        raise UnsupportedError(
            f"finetuning runs on cpu or cuda, not on {device}: for another GPU set CUDA_VISIBLE_DEVICES and use cuda"
        )
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"no device {device} here: torch sees no GPU; use cpu")


def check_precision(options: FinetuneOptions, device: str) -> None:
    """Raise a `UserError` if the device lacks this precision."""
    if options.precision == "float16" and device == "cpu":
        raise UserError("finetune.precision float16 is for GPUs: use bfloat16 or float32 on the cpu")

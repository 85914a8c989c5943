"""What a distillation needs, refused by name before anything is trained."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.errors import UnsupportedError, UserError
from compressor.models.tasks import task_of_model
from compressor.recipe import FinetuneOptions


class Samples(Protocol):
    """Training samples by their index: a torch `Dataset`, or just a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


def check_student(student: PreTrainedModel) -> None:
    """Refuse a student without a head.

    Raises:
        UnsupportedError: it has none.
    """
    if not task_of_model(student).metrics:
        raise UnsupportedError(f"{type(student).__name__} has no head that could learn what the teachers answer")


def check_data(train: Samples, options: FinetuneOptions) -> None:
    """Refuse samples that cannot be learnt from.

    Raises:
        UserError: there are none, or labels are asked for and missing.
    """
    if len(train) == 0:
        raise UserError("nothing to finetune on: the training data has no samples")
    if options.label_weight > 0 and "labels" not in train[0]:
        raise UserError("finetune.label_weight is above 0 but the training data has no labels: set it to 0")


def check_device(device: str) -> None:
    """Refuse a device that finetuning does not run on.

    Raises:
        UnsupportedError: it is none that the Trainer is used on.
        UserError: it is not there.
    """
    if device not in ("cpu", "cuda", "cuda:0"):
        raise UnsupportedError(
            f"finetuning runs on cpu or cuda, not on {device}: for another GPU set CUDA_VISIBLE_DEVICES and use cuda"
        )
    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"no device {device} here: torch sees no GPU; use cpu")

"""Logs for TensorBoard."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from compressor.errors import UserError


def tensorboard(folder: Path) -> TrainerCallback:
    """A callback that logs losses, learning rate and gradient norm.

    Raises:
        UserError: see `check_tensorboard`.
    """
    return TensorBoardCallback(_writer_class()(str(folder)))


def check_tensorboard() -> None:
    """Raise a `UserError` if tensorboard and tensorboardX are missing."""
    _writer_class()


def _writer_class() -> Any:
    for name in ("torch.utils.tensorboard", "tensorboardX"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).SummaryWriter
    raise UserError("finetune.tensorboard needs a package: pip install 'compressor[tensorboard]', or leave it out")

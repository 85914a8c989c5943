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
    """What logs loss, rate and gradient norm of every step, and judgements, to a folder.

    Raises:
        UserError: neither tensorboard nor tensorboardX is installed.
    """
    return TensorBoardCallback(_writer()(str(folder)))


def check_tensorboard() -> None:
    """Refuse to log where that cannot be done, before anything is trained.

    Raises:
        UserError: neither tensorboard nor tensorboardX is installed.
    """
    _writer()


def _writer() -> Any:
    for name in ("torch.utils.tensorboard", "tensorboardX"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).SummaryWriter
    raise UserError("finetune.tensorboard needs a package: pip install 'compressor[tensorboard]', or leave it out")

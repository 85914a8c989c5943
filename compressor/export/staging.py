"""Exported files are written to a stage, and moved into the model's folder only after all of them passed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from transformers import PreTrainedModel

from compressor.export.file_kinds import NAMES
from compressor.utils.scratch import scratch

#: Prefix of scratch folders inside a model's folder.
EXPORT = "export"


@contextmanager
def export_stage(model: PreTrainedModel, folder: Path) -> Iterator[Path]:
    """A scratch folder inside `folder`, which is made if it does not exist, and a model in eval mode.

    Afterwards the model is in its former mode, and a folder that was made for no file is removed.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    training = model.training
    with ExitStack() as stack:
        if not existed:
            stack.callback(_remove_if_empty, folder)
        stack.callback(model.train, training)
        stage = stack.enter_context(scratch(folder / EXPORT))
        model.eval()
        yield stage


def publish(stage: Path, folder: Path, stale: Iterable[Path] = ()) -> None:
    """Move all files below `stage` into `folder`, and remove files of earlier exports.

    Weights are moved before the graphs that name them.

    Args:
        stage: where the files were written.
        folder: where they belong.
        stale: files, relative to `folder`, to remove if they were not written now.
    """
    paths = [path for path in stage.rglob("*") if path.is_file()] if stage.exists() else []
    written = {path.relative_to(stage) for path in paths}
    for path in sorted(paths, key=lambda path: path.suffix == ".onnx"):
        target = folder / path.relative_to(stage)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)
    for former in set(stale) - written:
        (folder / former).unlink(missing_ok=True)


def onnx_files() -> Iterator[Path]:
    """Every ONNX file that an export may write, and its weights, relative to the folder `onnx`."""
    for name in NAMES:
        yield Path(name)
        yield Path(f"{name}.data")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()

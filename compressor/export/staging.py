"""Exported files are staged, and moved once all passed."""

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
    """A scratch folder inside `folder`, and the model in eval mode; restores the mode, removes an empty new folder."""
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
    """Move all files below `stage` into `folder`, weights first; remove `stale` files not written now."""
    paths = [path for path in stage.rglob("*") if path.is_file()] if stage.exists() else []
    written = {path.relative_to(stage) for path in paths}
    for path in sorted(paths, key=lambda path: path.suffix == ".onnx"):
        target = folder / path.relative_to(stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    for former in set(stale) - written:
        (folder / former).unlink(missing_ok=True)


def onnx_files() -> Iterator[Path]:
    """Every ONNX file and its weights, relative to `onnx`."""
    for name in NAMES:
        yield Path(name)
        yield Path(f"{name}.data")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()

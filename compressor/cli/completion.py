"""What a shell completes: models, paths, and the names of closed lists."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Written out: a shell does not wait for the import of torch.
_BUILTIN_TEACHERS, _BUILTIN_DATA = ("vit-a", "vit-b"), ("digits",)

Complete = Callable[[str], list[str]]


def complete_paths(incomplete: str) -> list[str]:
    """Files and folders that begin so; folders with a slash, hidden ones only if asked for."""
    return sorted(_entries(incomplete))


def complete_folders(incomplete: str) -> list[str]:
    """Folders that begin so."""
    return [path for path in complete_paths(incomplete) if path.endswith(os.sep)]


def complete_models(incomplete: str) -> list[str]:
    """Built-in teachers and folders that begin so."""
    return [*(name for name in _BUILTIN_TEACHERS if name.startswith(incomplete)), *complete_folders(incomplete)]


def complete_data(incomplete: str) -> list[str]:
    """Built-in data, files and folders that begin so."""
    return [*(name for name in _BUILTIN_DATA if name.startswith(incomplete)), *complete_paths(incomplete)]


def complete_names(*registries: str, words: Sequence[str] = (), separator: str = "") -> Complete:
    """Words, and names of registries, "module:NAME" each, imported only when a shell asks.

    Args:
        separator: of a list; what comes before the last one stays.
    """

    def complete(incomplete: str) -> list[str]:
        before, _, last = incomplete.rpartition(separator) if separator else ("", "", incomplete)
        start = f"{before}{separator}" if before else ""
        names = list(words)
        for registry in registries:
            module, _, name = registry.partition(":")
            names += getattr(importlib.import_module(module), name).names()
        return [f"{start}{name}" for name in dict.fromkeys(names) if name.startswith(last)]

    return complete


#: {flag: what it completes besides the words of its field}.
COMPLETIONS: dict[str, Complete] = {
    "--teachers": complete_models,
    "--anchor": complete_models,
    "--output": complete_folders,
    "--data": complete_data,
    "--tensorboard": complete_folders,
    "--formats": complete_names("compressor.export.formats:EXPORT_FORMATS", separator=","),
    "--residual": complete_names(
        "compressor.fusion.maps.residual:RESIDUAL_MAPS", "compressor.fusion.anchored.policies:POLICIES", words=("auto",)
    ),
    "--inner": complete_names("compressor.fusion.maps.units:UNIT_MAPS", words=("auto",)),
    "--solver": complete_names("compressor.transport.solvers:SOLVERS"),
    "--cost": complete_names("compressor.transport.costs:COSTS"),
    "--preparation": complete_names("compressor.transport.costs:PREPARATIONS"),
    "--normalise": complete_names("compressor.transport.solvers:COST_SCALES", words=("none",)),
    "--tokens": complete_names("compressor.fusion.calibration.token_filters:TOKEN_FILTERS"),
    "--augment": complete_names("compressor.data.augment:AUGMENTATIONS"),
    "--losses": complete_names("compressor.distillation.losses:LOSSES", separator=","),
    "--weights": complete_names(words=("auto", "equal")),
}


def _entries(incomplete: str) -> Iterator[str]:
    folder, name = os.path.split(incomplete)
    try:
        entries = list(os.scandir(Path(folder or ".").expanduser()))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith(".")):
            yield os.path.join(folder, entry.name) + (os.sep if entry.is_dir() else "")

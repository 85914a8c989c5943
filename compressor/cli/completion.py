"""What a shell completes: models, paths, and the names of closed lists."""

from __future__ import annotations

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


def complete_words(words: Sequence[str], separator: str = "") -> Complete:
    """These words.

    Args:
        separator: of a list; what comes before the last one stays.
    """

    def complete(incomplete: str) -> list[str]:
        before, _, last = incomplete.rpartition(separator) if separator else ("", "", incomplete)
        start = f"{before}{separator}" if before else ""
        return [f"{start}{word}" for word in words if word.startswith(last)]

    return complete


#: {flag: words}; written out, as a shell does not wait for imports; a test holds them to the registries.
WORDS: dict[str, tuple[str, ...]] = {
    "--formats": (
        "onnx",
        "onnx-int8",
        "onnx-int8-dynamic",
        "onnx-uint8",
        "onnx-int4",
        "onnx-fp16",
        "torch-export",
        "safetensors-bf16",
        "safetensors-fp16",
    ),
    "--residual": (
        "auto",
        "barycentre",
        "slice",
        "importance",
        "transport-select",
        "principal",
        "readers",
        "outliers",
        "anchor",
        "averaging",
        "weighted-scalar",
        "weighted-matrix",
        "residual-only",
        "branch-only",
        "identity",
        "global",
    ),
    "--inner": (
        "auto",
        "select",
        "transport",
        "transport-select",
        "importance",
        "slice",
    ),
    "--solver": (
        "emd",
        "sinkhorn",
        "semirelaxed",
        "semirelaxed-entropic",
        "partial",
        "unbalanced",
    ),
    "--cost": (
        "squared",
        "euclidean",
        "cosine",
        "correlation",
    ),
    "--preparation": (
        "raw",
        "centred",
        "standardised",
        "normalised",
    ),
    "--normalise": (
        "none",
        "median",
        "mean",
        "max",
    ),
    "--tokens": (
        "all",
        "class",
        "window",
        "random",
        "loss",
    ),
    "--augment": (
        "none",
        "flip",
        "crop-flip",
        "zoom-flip",
        "mixup",
    ),
    "--losses": (
        "auto",
        "hidden",
        "labels",
        "logits",
        "relations",
    ),
    "--weights": (
        "auto",
        "equal",
    ),
}

#: Flags that take a list.
_LISTS = ("--formats", "--losses")

#: {flag: what it completes besides the words of its field}.
COMPLETIONS: dict[str, Complete] = {
    "--teachers": complete_models,
    "--anchor": complete_models,
    "--output": complete_folders,
    "--data": complete_data,
    "--tensorboard": complete_folders,
    **{name: complete_words(words, separator="," if name in _LISTS else "") for name, words in WORDS.items()},
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

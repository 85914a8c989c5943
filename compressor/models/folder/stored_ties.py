"""Ties of a model in a folder, from the headers of its files where those suffice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel

from compressor.models.folder.weights import load_model
from compressor.models.meta import meta_model
from compressor.models.ties import copy_ties, is_tied, tied_groups

#: Rows of two tables that are compared before their others.
_ROWS = 4


def settle_stored_ties(folder: Path, config: PretrainedConfig) -> str:
    """Make a config say what the stored weights are, as loading does; a note if it said otherwise, or "".

    Weights are read only if there are more, fewer or more equal ones than the config leads to expect.

    Raises:
        UserError: such weights are unusable.
    """
    model = meta_model(config)
    groups = tied_groups(model)
    if not groups or not _is_odd(folder, model, groups):
        return ""
    notes: list[str] = []
    copy_ties(load_model(folder, notes=notes, mapped=True, dtype="auto").config, config)
    return notes[0] if notes else ""


def _is_odd(folder: Path, model: PreTrainedModel, groups: list[list[str]]) -> bool:
    """Whether the weights of the groups' shapes may not be as the config says."""
    named = dict(model.named_parameters(remove_duplicate=False))
    shapes = {tuple(named[group[0]].shape) for group in groups if group[0] in named}
    with ExitStack() as stack:
        stored: dict[tuple[int, ...], list[tuple[safe_open, str]]] = defaultdict(list)
        try:
            for file, name, shape in _stored(folder, stack):
                if shape in shapes:
                    stored[shape].append((file, name))
        # Unreadable files are named when they are loaded.
        except (SafetensorError, OSError):
            return False
        if not stored:
            return False
        for shape in shapes:
            expected = sum(tuple(parameter.shape) == shape for parameter in model.parameters())
            if len(stored[shape]) != expected or (not is_tied(model.config) and _some_equal(stored[shape])):
                return True
    return False


def _stored(folder: Path, stack: ExitStack) -> Iterator[tuple[safe_open, str, tuple[int, ...]]]:
    for path in sorted(folder.glob("*.safetensors")):
        file = stack.enter_context(safe_open(path, framework="pt"))
        for name in file.keys():  # noqa: SIM118 - no mapping
            yield file, name, tuple(file.get_slice(name).get_shape())


def _some_equal(tensors: list[tuple[safe_open, str]]) -> bool:
    """Whether two tensors of one shape are equal."""
    for k, (file, name) in enumerate(tensors):
        for other_file, other in tensors[:k]:
            if torch.equal(file.get_slice(name)[:_ROWS], other_file.get_slice(other)[:_ROWS]) and torch.equal(
                file.get_tensor(name), other_file.get_tensor(other)
            ):
                return True
    return False

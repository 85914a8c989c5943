"""Fusions whose models are read from disk layer by layer, within a given memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import UnsupportedError, UserError
from compressor.fusion.calibration.batches import Batch, sample_keys
from compressor.fusion.calibration.processes import Processes
from compressor.fusion.teacher import FusionTeacher, NamedModel, weights_checksum
from compressor.models.streamed import blocks_of
from compressor.models.ties import common_ties
from compressor.recipe import FusionOptions
from compressor.utils.tensor_store import TensorStore
from compressor.version import __version__

#: Tokens of one call of a layer: its activations are in memory whole.
CALL_TOKENS = 4096
#: What is fixed where no pilots are built: {option: value}.
FIXED: dict[str, Any] = {"residual": "principal", "inner": "select", "polish": 0, "weights": "equal"}


@dataclass(frozen=True, eq=False)
class Streaming:
    """How a fusion reads its models.

    Attributes:
        store: keeps hidden states and activations, within its budget.
        work: folder for finished layers, from which an interrupted fusion goes on; a temporary one if None.
    """

    store: TensorStore = field(default_factory=TensorStore)
    work: Path | None = None


def are_streamed(models: Sequence[NamedModel]) -> bool:
    """Whether models are read layer by layer.

    Raises:
        UserError: some are.
    """
    streamed = [blocks_of(model) is not None for _, model in models]
    if any(streamed) and not all(streamed):
        name = models[streamed.index(False)][0]
        raise UserError(f"{name} is in memory and others are read from disk: name folders for all of them")
    return any(streamed)


def fixed_options(options: FusionOptions) -> tuple[FusionOptions, tuple[str, ...]]:
    """Options without what needs pilots or whole models, and a line on what was fixed.

    Raises:
        UserError: an option that needs them.
    """
    if options.anchor is not None:
        raise UserError("an alignment to an anchor compares whole models: leave out --max-memory or --anchor")
    if options.polish not in ("auto", 0):
        raise UserError("--polish trains layers on activations in memory: leave out --max-memory or --polish")
    if options.residual == "readers":
        raise UserError("the map readers compares all layers at once: leave out --max-memory or --residual readers")
    changed = {name: value for name, value in FIXED.items() if getattr(options, name) == "auto"}
    if not options.refit and changed.get("inner") == "select":
        changed["inner"] = "transport"
    mixture = "logits" if options.mixture == "auto" else options.mixture
    fixed = options.model_copy(update={**changed, "mixture": mixture})
    said = ", ".join(f"{name} {value}" for name, value in changed.items())
    line = f"read layer by layer, so nothing was chosen by pilots: {said}, and the first shape" if said else ""
    return fixed, (line,) if line else ()


def check_streamable(models: Sequence[NamedModel]) -> None:
    """Refuse models that must be changed whole.

    Raises:
        UnsupportedError: their weights are tied unlike.
    """
    configs = [model.config for _, model in models]
    if any(new is not old for new, old in zip(common_ties(configs), configs, strict=True)):
        raise UnsupportedError(
            "one teacher ties its head to its embedding and another does not: such teachers cannot be read layer by "
            "layer; leave out --max-memory"
        )


def fusion_key(
    teachers: Sequence[FusionTeacher], student: nn.Module, options: FusionOptions, batches: Iterable[Batch],
    maps: Mapping[str, Any], processes: Processes,
) -> str:  # fmt: skip
    """A hash of all that a layer of a student depends on.

    Args:
        maps: residual maps by space.
    """
    digest = hashlib.sha256(f"{__version__} {torch.__version__}".encode())
    for teacher in teachers:
        digest.update(repr((weights_checksum(teacher.model), teacher.weight, sorted(teacher.spans))).encode())
    digest.update(options.model_dump_json(exclude={"max_memory"}).encode())
    digest.update(json.dumps(getattr(student, "config").to_dict(), sort_keys=True, default=str).encode())  # noqa: B009
    digest.update(repr([sample_keys(batch) for batch in batches]).encode())
    if processes.shared:
        # Each keeps the hidden states of its samples.
        digest.update(repr(processes).encode())
    for space in sorted(maps):
        for mapping in maps[space].maps:
            digest.update(mapping.push.contiguous().numpy().tobytes())
    return digest.hexdigest()

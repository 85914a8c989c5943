"""Less memory for a backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from compressor.errors import UnsupportedError


def layer_classes(model: PreTrainedModel) -> list[str] | None:
    """The names of the classes of the model's layers; None if these are not told apart."""
    return sorted({type(layer).__name__ for layer in _layers(model)}) or None


@contextmanager
def recomputing(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Keep nothing inside the layers for the backward pass, which computes them again.

    transformers does so of models in training mode alone, and a student has no dropout.

    Raises:
        UnsupportedError: the model's layers are not told apart.
    """
    layers = _layers(model) if wanted else []
    if wanted and not layers:
        raise UnsupportedError(f"the layers of {type(model).__name__} cannot be computed again: leave recompute out")
    try:
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    return [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]

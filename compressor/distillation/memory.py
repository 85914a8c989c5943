"""Less memory for a step: batches in parts, and activations that are computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from compressor.distillation.checks import TrainingSamples
from compressor.errors import UnsupportedError
from compressor.models.inputs import logits_of_sample
from compressor.models.tasks import predicts_vocabulary
from compressor.recipe import FinetuneOptions
from compressor.utils import distributed

#: Logits that the part of a batch may make: teachers, student and loss hold several tensors of them.
MOST_TRAINING_LOGITS = 1 << 26
#: Samples whose longest is taken for the longest.
LOOKED_AT = 16


def batch_parts(config: PretrainedConfig, samples: TrainingSamples, options: FinetuneOptions) -> int:
    """How many parts a batch is computed in.

    Args:
        config: the student's.
        samples: that it is trained on.
        options: of the training.
    """
    share, rest = divmod(options.batch_size, distributed.world_size())
    if options.accumulate != "auto":
        return options.accumulate
    if rest or not predicts_vocabulary(config):
        return 1
    most = max(logits_of_sample(config, samples[index]) for index in range(min(LOOKED_AT, len(samples))))
    possible = [count for count in range(1, share + 1) if share % count == 0]
    return next((count for count in possible if share // count * most <= MOST_TRAINING_LOGITS), share)


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

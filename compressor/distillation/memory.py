"""Split batches and recomputed activations, for less memory."""

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
from compressor.models.tasks.table import predicts_vocabulary
from compressor.recipe import FinetuneOptions
from compressor.utils import distributed

#: Most logits of one part of a batch; teachers, student and loss hold several tensors of that size.
MOST_TRAINING_LOGITS = 1 << 26
#: Samples looked at for the longest one.
LENGTH_SAMPLES = 16


def batch_parts(config: PretrainedConfig, samples: TrainingSamples, options: FinetuneOptions) -> int:
    """Parts of each process's batch."""
    share, rest = divmod(options.batch_size, distributed.world_size())
    if options.accumulate != "auto":
        return options.accumulate
    if rest or not predicts_vocabulary(config):
        return 1
    largest = max(logits_of_sample(config, samples[index]) for index in range(min(LENGTH_SAMPLES, len(samples))))
    divisors = [count for count in range(1, share + 1) if share % count == 0]
    return next((count for count in divisors if share // count * largest <= MOST_TRAINING_LOGITS), share)


def layer_classes(model: PreTrainedModel) -> list[str] | None:
    """Class names of the layers, if transformers marks them."""
    return sorted({type(layer).__name__ for layer in _layers(model)}) or None


@contextmanager
def recompute_layers(model: PreTrainedModel, enabled: bool) -> Iterator[None]:
    """Recompute layer activations in the backward pass, in eval mode too, unlike transformers.

    Raises:
        UnsupportedError: transformers does not mark the layers.
    """
    layers = _layers(model) if enabled else []
    if enabled and not layers:
        raise UnsupportedError(f"the layers of {type(model).__name__} cannot be computed again: leave recompute out")
    try:
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]

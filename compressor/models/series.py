"""Random inputs of series: values over time, and the states, actions and returns of a trajectory.

Every maker is one of `random_inputs.MAKERS`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig


def past_values(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """[B, context], or [B, context, channels]; with lagged values [B, context + lags], or with channels."""
    if getattr(config, "patch_length", None) is not None and getattr(config, "horizon_length", None) is not None:
        patches = min(4, int(config.context_length) // int(config.patch_length))
        return torch.randn(batch, patches * int(config.patch_length), generator=generator)
    context, channels = getattr(config, "context_length", None), getattr(config, "num_input_channels", None)
    if context is not None and channels is not None:
        return torch.randn(batch, context, channels, generator=generator)
    past, _ = _spans(config)
    return None if past is None else _lagged_values(config, batch, past, generator)


def future_values(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Values to predict, which a decoder reads shifted."""
    _, future = _spans(config)
    return None if future is None else _lagged_values(config, batch, future, generator)


def past_times(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Features of past times [B, context + lags, features]."""
    past, _ = _spans(config)
    return None if past is None else torch.randn(batch, past, config.num_time_features, generator=generator)


def future_times(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Features of future times [B, predicted, features]."""
    _, future = _spans(config)
    return None if future is None else torch.randn(batch, future, config.num_time_features, generator=generator)


def past_observed(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Which past values are known: all."""
    values = past_values(config, batch, length, generator)
    return None if values is None else torch.ones_like(values)


def past_padding(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Which past values are padding: none."""
    values = past_values(config, batch, length, generator)
    return None if values is None else torch.zeros_like(values, dtype=torch.long)


def sampling_rates(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """A kind of sampling rate of each series [B, 1]."""
    kinds = getattr(config, "freq_size", None)
    return None if kinds is None else torch.randint(int(kinds), (batch, 1), generator=generator)


def state(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """The state of a robot [B, values]."""
    size = getattr(config, "max_state_dim", None)
    return None if size is None else torch.randn(batch, int(size), generator=generator)


def states(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """[B, T, values]."""
    size = getattr(config, "state_dim", None)
    return None if size is None else torch.randn(batch, length, size, generator=generator)


def actions(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """[B, T, values]."""
    size = getattr(config, "act_dim", None)
    return None if size is None else torch.randn(batch, length, size, generator=generator)


def returns(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """[B, T, 1]."""
    return None if getattr(config, "act_dim", None) is None else torch.randn(batch, length, 1, generator=generator)


def steps(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor | None:
    """Indices of time [B, T]."""
    return None if getattr(config, "max_ep_len", None) is None else torch.arange(length).expand(batch, length).clone()


def _spans(config: PretrainedConfig) -> tuple[int, int] | tuple[None, None]:
    """Past values that are read, with those before them that are lagged, and values to predict."""
    lags, future = getattr(config, "lags_sequence", None), getattr(config, "prediction_length", None)
    if not lags or not future or getattr(config, "num_time_features", None) is None:
        return None, None
    return int(getattr(config, "context_length", None) or future) + max(lags), int(future)


def _lagged_values(config: PretrainedConfig, batch: int, length: int, generator: torch.Generator) -> Tensor:
    channels = [config.input_size] if config.input_size > 1 else []
    return torch.randn(batch, length, *channels, generator=generator)

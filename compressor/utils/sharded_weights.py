"""Weights of which every process has a part: taken from a whole model, and put together again (FSDP2)."""

from __future__ import annotations

from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

_WHOLE = StateDictOptions(full_state_dict=True)


def gather_weights(model: nn.Module, whole: nn.Module) -> None:
    """Give a whole model the weights of one that is sharded; all processes must call this, and all get them.

    Args:
        model: sharded by `fully_shard`.
        whole: one like it that is not; written to.
    """
    whole.load_state_dict(get_model_state_dict(model, options=_WHOLE))


def scatter_weights(whole: nn.Module, model: nn.Module) -> None:
    """Give a sharded model the weights of a whole one, which all processes have alike; all must call this."""
    set_model_state_dict(model, dict(whole.state_dict()), options=_WHOLE)

"""Several processes at one job, as `torchrun` and `accelerate launch` start them; one of them is the first.

What they are is read from the environment, so that asking costs nothing; to work together they join.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Hours that processes wait for the first one, which fuses and measures alone.
PATIENCE = 24


def rank() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """How many there are; 1 unless they were launched together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_main_process() -> bool:
    """Whether this is the process that writes, tells and measures."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether each keeps a part of the weights alone while it trains, as accelerate was told: FSDP."""
    return _told("ACCELERATE_USE_FSDP")


def device_of(name: str) -> str:
    """The device of this process: of several GPUs each takes its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK') or 0}" if name == "cuda" and world_size() > 1 else name


def init(device: str) -> None:
    """Meet the other processes, if there are any.

    Args:
        device: "cpu", or "cuda" for one GPU each.

    Raises:
        UnsupportedError: they were launched to share weights in a way that is not known here, or on the CPU, where
            accelerate would leave that out without a word.
    """
    if _told("ACCELERATE_USE_DEEPSPEED"):
        raise UnsupportedError("weights are shared by FSDP alone: launch the processes without DeepSpeed")
    if is_sharded():
        if os.environ.get("FSDP_VERSION") != "2":
            raise UnsupportedError("of FSDP the second version is used: add --fsdp_version 2 to accelerate launch")
        # Teachers are whole in every process; transformers would read them, and the student, in one process alone.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if world_size() == 1:
        return
    from datetime import timedelta

    from accelerate import DistributedType, PartialState

    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=PATIENCE))
    if is_sharded() and state.distributed_type == DistributedType.MULTI_CPU:
        shutdown()  # All have met and all know it: one that went by itself would cut off those still on their way.
        raise UnsupportedError(
            "accelerate shares weights between GPUs alone: use --device cuda, or launch without FSDP"
        )


def barrier() -> None:
    """Go on when all processes that have joined are here."""
    if world_size() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()


def shutdown() -> None:
    """Part from the other processes; what follows is done by one of them alone."""
    if world_size() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


def all_sum(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums of numbers over all processes that have joined, position by position, in float64."""
    if world_size() == 1:
        return list(values)
    import torch

    if not torch.distributed.is_initialized():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return total.tolist()


def gather_weights(model: nn.Module, whole: nn.Module) -> None:
    """Copy the weights of a sharded model (FSDP2) into a whole one; every process must call this.

    Args:
        model: sharded by `fully_shard`.
        whole: the same model, not sharded; written to in every process.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))


def scatter_weights(whole: nn.Module, model: nn.Module) -> None:
    """Copy the weights of a whole model, equal in all processes, into a sharded one; every process must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(whole.state_dict()), options=StateDictOptions(full_state_dict=True))


def _told(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")

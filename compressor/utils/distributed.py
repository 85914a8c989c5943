"""Processes of `torchrun` or `accelerate launch`; rank 0 is the main one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from compressor.errors import LaunchError, UnsupportedError
from compressor.utils.launch import check_connection, is_launched, launched_number
from compressor.utils.logging import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Hours to wait for the main process, which fuses and measures alone.
TIMEOUT_HOURS = 24


def rank() -> int:
    """Index of this process, from 0."""
    return launched_number("RANK", 0)


def world_size() -> int:
    """Number of processes."""
    return launched_number("WORLD_SIZE", 1)


def is_main_process() -> bool:
    """Whether this process writes, prints and measures."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether accelerate shards weights (FSDP)."""
    return _is_set("ACCELERATE_USE_FSDP")


def device_of(name: str) -> str:
    """This process's device: one GPU each."""
    return f"cuda:{launched_number('LOCAL_RANK', 0)}" if name == "cuda" and world_size() > 1 else name


def init(device: str) -> None:
    """Connect to the other processes, if any.

    Raises:
        UnsupportedError: DeepSpeed, FSDP 1, or FSDP on the CPU, which would not shard.
        LaunchError: the launcher's variables do not connect the processes.
    """
    check_connection(device)
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise UnsupportedError("weights are shared by FSDP alone: launch the processes without DeepSpeed")
    if is_sharded():
        if os.environ.get("FSDP_VERSION") != "2":
            raise UnsupportedError("of FSDP the second version is used: add --fsdp_version 2 to accelerate launch")
        # Every process needs whole teachers; transformers would load them in one process only.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if not is_launched():
        return
    from datetime import timedelta

    from accelerate import DistributedType, PartialState

    try:
        state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=TIMEOUT_HOURS))
    # torch's errors of a connection are RuntimeErrors.
    except (RuntimeError, ValueError, OSError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise LaunchError(f"cannot connect to the other processes at {place}: {one_line(error)}") from error
    if is_sharded() and state.distributed_type == DistributedType.MULTI_CPU:
        shutdown()  # together: a process that left alone would cut off those still connecting
        raise UnsupportedError(
            "accelerate shares weights between GPUs alone: use --device cuda, or launch without FSDP"
        )


def barrier() -> None:
    """Wait for all connected processes."""
    if world_size() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()


def shutdown() -> None:
    """Disconnect once all are here."""
    if world_size() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
            _cpu_group.cache_clear()


def all_sum(values: Sequence[float], device: torch.device) -> list[float]:
    """Float64 sums over processes, per position."""
    if world_size() == 1:
        return list(values)
    import torch

    if not torch.distributed.is_initialized():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return total.tolist()


def sum_in_place(tensor: torch.Tensor) -> None:
    """Add a tensor on the CPU up over all processes, each of which gets the sum."""
    import torch

    torch.distributed.all_reduce(tensor, group=_cpu_group())


def copy_from_main(tensor: torch.Tensor) -> None:
    """Overwrite a tensor on the CPU by the main process's."""
    import torch

    torch.distributed.broadcast(tensor, src=0, group=_cpu_group())


@cache
def _cpu_group() -> Any:
    """All processes, connected for tensors on the CPU; the group of GPUs has none."""
    import torch

    return torch.distributed.new_group(backend="gloo")


def gather_weights(model: nn.Module, whole: nn.Module) -> None:
    """Copy a sharded model's weights (FSDP2) into a whole one; all processes call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))


def scatter_weights(whole: nn.Module, model: nn.Module) -> None:
    """Copy whole weights, equal in all processes, into a sharded model."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(whole.state_dict()), options=StateDictOptions(full_state_dict=True))


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")

"""Function-preserving widening: a model twice as wide that computes the same, for fusion to undo exactly."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from compressor.anatomy.axes import Kind, Role, Space, map_key
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import Tap, first_tensor, hooks, logits_of
from compressor.anatomy.infer import inspect_config
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.transform import Map, apply
from compressor.models.configs.fields import read_field, with_fields
from compressor.models.inputs import dummy_inputs


@torch.no_grad()
def widen(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model with every coordinate duplicated and every space shuffled: writers copied, readers halved.

    Heads are duplicated as wholes; heads of fixed position (ALiBi) go to the position of the same slope.  A tied head
    cannot be halved, so the norm before it is scaled.

    Args:
        model: built by `random_model`, in float64.
        seed: of the shuffling.
    """
    anatomy: Anatomy = inspect_config(model.config)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    maps: dict[str, Map] = {}
    orders: dict[str, Tensor] = {}
    for space in anatomy.spaces.values():
        if space.kind is Kind.ATTENTION:
            shuffled = (torch.arange(2 * space.groups) % space.groups)[
                torch.randperm(2 * space.groups, generator=generator)
            ]
            groups = torch.arange(2 * space.groups) // 2 if space.head_position_fixed else shuffled
            maps |= _attention(space, orders.setdefault(space.order or space.name, groups))
        elif space.kind in (Kind.RESIDUAL, Kind.HIDDEN):
            copies = [torch.randperm(2 * space.size, generator=generator) % space.size for _ in range(space.copies)]
            maps[space.name] = _duplicates(torch.stack(copies) if space.copies > 1 else copies[0], space.size)
    config = cast(PretrainedConfig, model.config)
    values = {
        field: 2 * read_field(config, field)
        for field, meaning in anatomy.fields.items()
        if meaning in ("hidden", "heads", "groups") or (meaning == "ffn" and read_field(config, field))
    }
    wide = random_model(with_fields(config, values))
    parameters = dict(wide.named_parameters())
    for name, value in apply(maps, dict(model.named_parameters()), anatomy).items():
        parameters[name].copy_(value)
    # Trained values that are no parameters (BART's bias of logits) have no copies.
    stored, narrow = wide.state_dict().keys(), dict(model.named_buffers())
    for name, buffer in wide.named_buffers():
        if name in stored and name in narrow and buffer.shape == narrow[name].shape:
            buffer.copy_(narrow[name])
    _undo_gain(model, wide, anatomy)
    _weaken_before_tied_heads(model, wide, anatomy)
    return wide


def _attention(space: Space, groups: Tensor) -> dict[str, Map]:
    per_group, channels = space.heads // space.groups, torch.arange(space.head_dim)
    heads = (groups[:, None] * per_group + torch.arange(per_group)).flatten()
    maps = {}
    for role in Role:
        grouped = role in (Role.KEY, Role.VALUE)
        owners = groups if grouped else heads
        order = owners if role is Role.HEADS else (owners[:, None] * space.head_dim + channels).flatten()
        size = (space.groups if grouped else space.heads) * (1 if role is Role.HEADS else space.head_dim)
        mapping = _duplicates(order, size)
        if space.head_position_fixed:
            # Every second one of 2n slopes is a slope of n heads.
            same_slope = torch.arange(len(owners)) % 2 == 1
            mapping = Map(mapping.push, mapping.push * same_slope.repeat_interleave(len(order) // len(owners)))
        maps[map_key(space.name, role)] = mapping
    return maps


def _duplicates(order: Tensor, size: int) -> Map:
    """New coordinate j is a copy of old coordinate order[..., j]."""
    push = torch.nn.functional.one_hot(order, size).to(torch.float64).transpose(-1, -2)
    return Map(push, push / 2)


def _undo_gain(narrow: nn.Module, wide: nn.Module, anatomy: Anatomy) -> None:
    """Divide embeddings by the larger gain of the wide model (Gemma)."""
    tap = (anatomy.layers[0], "in")
    ratio = float(_captured(wide, tap).square().mean().sqrt() / _captured(narrow, tap).square().mean().sqrt())
    tables = {name for name, module in wide.named_modules() if isinstance(module, nn.Embedding)}
    if abs(ratio - 1) > 1e-6:
        for name, parameter in wide.named_parameters():
            if name.rpartition(".")[0] in tables:
                parameter.div_(ratio)


def _weaken_before_tied_heads(narrow: nn.Module, wide: nn.Module, anatomy: Anatomy) -> None:
    """Scale norms before tied heads, whose duplicated coordinates would count twice; measured on the output (T5)."""
    tied = {step.module for step in anatomy.steps if step.tied}
    for norm in anatomy.norms:
        head = next((reader for reader in norm.readers if reader in tied), None)
        if head is None:
            continue
        before, after = _captured(narrow, (head, "out")), _captured(wide, (head, "out"))
        factor = float((before * after).sum() / after.square().sum())
        weight, bias = (
            wide.get_parameter(f"{norm.module}.weight"),
            getattr(wide.get_submodule(norm.module), "bias", None),
        )
        weight.copy_(factor * (weight + 1 - norm.unit_scale) + norm.unit_scale - 1)
        if isinstance(bias, Tensor):
            bias.mul_(factor)


def _captured(model: nn.Module, tap: Tap) -> Tensor:
    """The tapped tensor on random inputs."""
    module, end = tap
    captured: list[Tensor | None] = []

    def hook(_: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        captured.append(first_tensor(output) if end == "out" else first_tensor(args or kwargs))

    with hooks([model.get_submodule(module).register_forward_hook(hook, with_kwargs=True)]):
        logits_of(model, dummy_inputs(model.config, dtype=torch.float64))  # type: ignore[arg-type]
    assert captured[0] is not None
    return captured[0]

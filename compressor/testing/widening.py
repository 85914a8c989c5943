"""Function-preserving widening: a model twice as wide that computes the same, which fusion must undo exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import first_tensor, hooks, logits_of
from compressor.anatomy.infer import inspect_config
from compressor.anatomy.resize import with_fields
from compressor.anatomy.spec import Anatomy, Kind, Role, Space, map_key
from compressor.anatomy.transform import Map, apply
from compressor.models.inputs import dummy_inputs


@torch.no_grad()
def widen(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every coordinate duplicated, then every space shuffled: writers are copied, readers halved.

    Heads are duplicated as wholes.  Heads that have a place (ALiBi) are copied to the place of the same slope, and what
    stands at the new places is read with weight zero.  A head that shares its weight with the embedding cannot be
    halved; the norm in front of it is.

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
    values = {
        field: 2 * getattr(model.config, field)
        for field, meaning in anatomy.fields.items()
        if meaning in ("hidden", "heads", "groups") or (meaning == "ffn" and getattr(model.config, field))
    }
    wide = random_model(with_fields(model.config, values))  # type: ignore[arg-type]
    parameters = dict(wide.named_parameters())
    for name, value in apply(maps, dict(model.named_parameters()), anatomy).items():
        parameters[name].copy_(value)
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
        found = _duplicates(order, size)
        if space.head_position_fixed:
            # Of 2n slopes every second one is a slope of n heads.
            kept = torch.arange(len(owners)) % 2 == 1
            found = Map(found.push, found.push * kept.repeat_interleave(len(order) // len(owners)))
        maps[map_key(space.name, role)] = found
    return maps


def _duplicates(order: Tensor, size: int) -> Map:
    """New coordinate j is a copy of old coordinate order[..., j]."""
    push = torch.nn.functional.one_hot(order, size).to(torch.float64).transpose(-1, -2)
    return Map(push, push / 2)


def _undo_gain(narrow: nn.Module, wide: nn.Module, anatomy: Anatomy) -> None:
    """Some families multiply embeddings by a power of their width (Gemma): the wider model would multiply by more."""
    first = anatomy.layers[0]
    ratio = float(_seen(wide, first, "in").square().mean().sqrt() / _seen(narrow, first, "in").square().mean().sqrt())
    tables = {module for module, found in wide.named_modules() if isinstance(found, nn.Embedding)}
    if abs(ratio - 1) > 1e-6:
        for name, parameter in wide.named_parameters():
            if name.rpartition(".")[0] in tables:
                parameter.div_(ratio)


def _weaken_before_tied_heads(narrow: nn.Module, wide: nn.Module, anatomy: Anatomy) -> None:
    """Scale norms in front of tied heads so that duplicated coordinates do not count twice.

    A family may also divide by a power of its width there (T5), so the ratio is measured on what the head puts out.
    """
    tied = {step.module for step in anatomy.steps if step.tied}
    for norm in anatomy.norms:
        head = next((reader for reader in norm.readers if reader in tied), None)
        if head is None:
            continue
        wanted, found = _seen(narrow, head, "out"), _seen(wide, head, "out")
        factor = float((wanted * found).sum() / found.square().sum())
        weight, bias = (
            wide.get_parameter(f"{norm.module}.weight"),
            getattr(wide.get_submodule(norm.module), "bias", None),
        )
        weight.copy_(factor * (weight + 1 - norm.unit_scale) + norm.unit_scale - 1)
        if isinstance(bias, Tensor):
            bias.mul_(factor)


def _seen(model: nn.Module, module: str, end: str) -> Tensor:
    """What a module reads or returns on random inputs."""
    seen: list[Tensor | None] = []

    def note(_: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        seen.append(first_tensor(output) if end == "out" else first_tensor(args or kwargs))

    with hooks([model.get_submodule(module).register_forward_hook(note, with_kwargs=True)]):
        logits_of(model, dummy_inputs(model.config, dtype=torch.float64))  # type: ignore[arg-type]
    assert seen[0] is not None
    return seen[0]

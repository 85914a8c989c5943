"""What a certificate exercises.

A parameter that no trial reaches, and a space whose wrong map changes no answer, are not proven by unchanged answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressor.anatomy.axes import Axis, Kind, Part, Role, Side, Space, map_key
from compressor.anatomy.certificate import (
    CERTIFICATE_TOLERANCE,
    Inputs,
    functional_answers,
    is_compared,
    logits_change,
)
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.permutations import random_permutations
from compressor.anatomy.resize import BUILD_ERRORS
from compressor.anatomy.spec import Anatomy
from compressor.anatomy.transform import Map, apply

#: Factor of matrices under which wrong maps are tried.
_SHARPER = 3.0


def reached_parameters(model: nn.Module, inputs: Inputs) -> set[str]:
    """Parameters that the answers depend on: by gradient, or else by trying."""
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    reached: set[str] = set()
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        generator = torch.Generator().manual_seed(3)
        with torch.enable_grad():
            answers = [a for a in all_outputs(model, inputs).values() if a.requires_grad]
            total = sum((a.nan_to_num(0, 0, 0) * _noise(a, generator)).sum() for a in answers)
        if isinstance(total, Tensor):
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
            reached = {n for n, g in zip(parameters, gradients, strict=True) if g is not None and bool((g != 0).any())}
    except BUILD_ERRORS:
        pass  # operations without a gradient: every parameter is tried
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
    missed = [name for name in parameters if name not in reached]
    return reached | set(_reached_by_trying(model, inputs, missed))


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)


def _reached_by_trying(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> Iterator[str]:
    """Those whose disturbance changes an answer; halves of the names that change nothing are not split further."""
    if not names:
        return
    state: dict[str, Tensor] = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(4)
    disturbed = {name: state[name] + _noise(state[name], generator) for name in names}
    if logits_change(model, inputs, disturbed) == 0:
        return
    if len(names) == 1:
        yield names[0]
        return
    middle = len(names) // 2
    yield from _reached_by_trying(model, inputs, names[:middle])
    yield from _reached_by_trying(model, inputs, names[middle:])


def sensitivity(model: nn.Module, trials: Sequence[Inputs], anatomy: Anatomy, seed: int = 1) -> dict[str, float]:
    """{space: the least change by a wrong map, which permutes what writes the space and not what reads it}.

    A space that nothing claims to permute (one rotary group) is left out.
    """
    state: dict[str, Tensor] = dict(model.named_parameters())
    before = [functional_answers(model, state, inputs) for inputs in trials]
    # Attention of small weights is nearly uniform and would hide which key is which.
    sharper = {name: _SHARPER * value if value.dim() > 1 else value for name, value in state.items()}
    answers = [functional_answers(model, sharper, inputs) for inputs in trials]
    if _compared(answers) == _compared(before):
        # Else answers of many layers without norms became so large that they count as masks.
        state, before = sharper, answers
    changes: dict[str, float] = {}
    written = replace(anatomy, axes={name: tuple(map(_writes_only, axes)) for name, axes in anatomy.axes.items()})
    for space in anatomy.spaces.values():
        found = [
            _largest_change(model, trials, {**state, **apply(maps, state, written, names)}, before)
            for maps, names in _wrong_maps(space, anatomy, seed)
        ]
        if found:
            changes[space.name] = min(found)
    return changes


def _compared(answers: Sequence[Mapping[str, Tensor]]) -> int:
    """Entries of answers that are compared."""
    return sum(int(is_compared(answer).sum()) for each in answers for answer in each.values())


def _largest_change(
    model: nn.Module, trials: Sequence[Inputs], state: Mapping[str, Tensor], before: Sequence[Mapping[str, Tensor]]
) -> float:
    """The first change beyond the tolerance, or the largest."""
    largest = 0.0
    for inputs, answers in zip(trials, before, strict=True):
        largest = max(largest, logits_change(model, inputs, state, before=[answers]))
        if largest > CERTIFICATE_TOLERANCE:
            break
    return largest


def _writes_only(axis: Axis) -> Axis:
    return axis if axis.side is Side.WRITE else replace(axis, parts=tuple(Part(None, p.size) for p in axis.parts))


def _wrong_maps(space: Space, anatomy: Anatomy, seed: int) -> Iterator[tuple[dict[str, Map], list[str]]]:
    """(maps of one end, parameters): of keys and not queries, of values and not outputs; those that move something."""
    maps, names = random_permutations([space], torch.Generator().manual_seed(seed)), anatomy.parameters_of(space.name)
    ends = [(maps, names)]
    owners = [name.rpartition(".")[0] for name in names]
    if len(set(owners)) > 1 and not any(_reads(anatomy.axes[name], space.name) for name in names):
        # Nothing but a product of what two modules write reads it (CLIP's projections): one of them is an end.
        ends = [(maps, [name for name, owner in zip(names, owners, strict=True) if owner == owners[0]])]
    if space.kind is Kind.EXPERTS:
        # A mixture is a sum: only what chooses experts tells one from another.
        ends = [(maps, [name for name in names if len(anatomy.axes[name]) < 3])]
    elif space.kind is Kind.ATTENTION:
        roles = {role: [n for n in names if _has_part(anatomy, n, map_key(space.name, role))] for role in Role}
        # Where queries and keys have one role, one of the two modules is an end.
        role = Role.KEY if roles[Role.KEY] else Role.QUERY
        modules = [name.rpartition(".")[0] for name in roles[role]]
        keys = roles[role] if role is Role.KEY else [n for n in roles[role] if n.startswith(modules[0] + ".")]
        ends = [
            ({map_key(space.name, role): maps[map_key(space.name, role)]}, keys),
            ({map_key(space.name, Role.VALUE): maps[map_key(space.name, Role.VALUE)]}, roles[Role.VALUE]),
        ]
    for moved, movable in ends:
        if movable and any(_moves(mapping) for mapping in moved.values()):
            yield moved, movable


def _reads(axes: Sequence[Axis], space: str) -> bool:
    return any(axis.side is Side.READ and axis.roles_in(space) is not None for axis in axes)


def _has_part(anatomy: Anatomy, name: str, key: str) -> bool:
    return any(part.key == key for axis in anatomy.axes[name] for part in axis.parts)


def _moves(mapping: Map) -> bool:
    push = mapping.push
    return not torch.equal(push, torch.eye(push.shape[-1], dtype=push.dtype).expand_as(push))


def without_space(anatomy: Anatomy, name: str) -> Anatomy:
    """The anatomy with a space's coordinates in their places."""
    axes = {
        parameter: tuple(_fixed(axis, name) if axis.roles_in(name) is not None else axis for axis in labelled)
        for parameter, labelled in anatomy.axes.items()
    }
    spaces = {
        key: replace(space, experts=None) if space.experts == name else space
        for key, space in anatomy.spaces.items()
        if key != name
    }
    outputs = {output: space for output, space in anatomy.outputs.items() if space != name}
    output = None if anatomy.output == name else anatomy.output
    return replace(anatomy, axes=axes, spaces=spaces, outputs=outputs, output=output)


def _fixed(axis: Axis, space: str) -> Axis:
    parts = tuple(Part(None, part.size) if (part.key or "").partition("/")[0] == space else part for part in axis.parts)
    return (
        Axis((Part(None, axis.size),), axis.side)
        if all(part.key is None for part in parts)
        else replace(axis, parts=parts)
    )

"""What a finetune may hold a student to beside its answers: its teachers' residual streams, and their attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Kind, Role, inspect_config
from compressor.anatomy.queries import attention_columns, stream_keys
from compressor.fusion.build.student import StudentBuilder
from compressor.layer_maps import AttentionEnd, AttentionPair, LayerMap

#: The ends of an attention whose relations are compared.
ROLES = (Role.QUERY, Role.KEY, Role.VALUE)


def layer_maps_of(student: StudentBuilder, order: Sequence[int]) -> tuple[LayerMap, ...]:
    """The residual stream behind every layer, and what carries the teachers' to it.

    Teachers are seen as they are and not in canonical form, so where that form centres the stream, the map does.

    Args:
        student: built.
        order: source i is the user's teacher order[i]; passages are in the user's order.
    """
    places = sorted(range(len(order)), key=lambda i: order[i])
    carried: dict[str, tuple[Tensor | None, ...]] = {}
    found = []
    keys = stream_keys(student.anatomy)
    for index, stack in enumerate(student.anatomy.stacks):
        for layer in stack.layers:
            key = keys[layer]
            if key not in carried:
                carried[key] = tuple(_push(student, place, key, stack.residual) for place in places)
            if any(push is not None for push in carried[key]):
                layers = tuple(student.sources[place].own(layer) for place in places)
                found.append(LayerMap(layer, layers, carried[key], decoder=index > 0))
    return tuple(found)


def attention_pairs(student: Anatomy, teachers: Sequence[Anatomy]) -> tuple[AttentionPair, ...]:
    """Queries, keys and values of the last layer of every stack (Wang et al. 2021, section 3: MiniLMv2).

    Those are left out that are not the output of a linear module in all models.
    """
    models = [student, *teachers]
    found = []
    for index in range(len(student.stacks)):
        spaces = [_last_attention(anatomy, index) for anatomy in models]
        for role in ROLES:
            ends = [_end(anatomy, space, role) for anatomy, space in zip(models, spaces, strict=True)]
            known = [end for end in ends if end is not None]
            if len(known) == len(models):
                first, *others = known
                found.append(AttentionPair(first, tuple(others), decoder=index > 0))
    return tuple(found)


def attention_pairs_of(student: PretrainedConfig, teachers: Sequence[PretrainedConfig]) -> tuple[AttentionPair, ...]:
    """`attention_pairs` of models, by their configs."""
    return attention_pairs(inspect_config(student), [inspect_config(teacher) for teacher in teachers])


def _push(student: StudentBuilder, place: int, key: str, residual: str) -> Tensor | None:
    """A teacher's map of the stream, float32 [n_k, m]; None where it adds nothing."""
    mapping = student.maps[place].get(key)
    if mapping is None or not mapping.push.any():
        return None
    anatomy, push = student.sources[place].anatomy, mapping.push
    if residual in anatomy.centred and anatomy.rotatable(residual):
        push = push - push.mean(dim=0)
    return push.to(torch.float32).contiguous()


def _last_attention(anatomy: Anatomy, stack: int) -> str | None:
    """The first attention of a stack's last layer, which in decoders of encoder–decoders is that to itself."""
    layer = anatomy.stacks[stack].layers[-1]
    kinds = {name: space.kind for name, space in anatomy.spaces.items()}
    steps = [step for step in anatomy.steps if step.module.startswith(layer + ".")]
    written = (step.writes or "" for step in steps)
    return next((name for name in written if kinds.get(name) is Kind.ATTENTION), None)


def _end(anatomy: Anatomy, space: str | None, role: Role) -> AttentionEnd | None:
    if space is None:
        return None
    try:
        spot, columns = attention_columns(anatomy, space, role)
    except StopIteration:
        return None
    return AttentionEnd(spot[0], tuple(columns.tolist()), len(columns) // anatomy.spaces[space].head_dim)

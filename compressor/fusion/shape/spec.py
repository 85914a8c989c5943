"""The student's shape: a width and a depth turned into a config that its family can express."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from compressor.anatomy import Anatomy, Stack
from compressor.anatomy.resize import BUILD_ERRORS, with_fields, with_layers
from compressor.errors import UserError
from compressor.fusion.shape.depth import evenly_spaced_layer
from compressor.fusion.shape.width import AttentionShape, attention_shapes, configured_size, fields_of
from compressor.models.meta import meta_model


@dataclass(frozen=True)
class StudentSpec:
    """A student's config, what was asked for and what was given, and its sizes by config field.

    Attributes:
        config: the student's.
        asked_width, given_width: shares of the residual width.
        fields: {config field: (the teacher's size, the student's)}, and the rotary base if heads become smaller.
        asked_depth: a share of the layers or their number; None for all.
        narrowing: how attention becomes narrower: fewer-heads, smaller-heads or all-heads; "" where it does not.
        rotary_base: of rotary positions whose heads become smaller.
    """

    config: PretrainedConfig
    asked_width: float
    given_width: float
    fields: dict[str, tuple[float, float]]
    asked_depth: float | int | None = None
    narrowing: str = ""
    rotary_base: float | None = None

    def summary(self) -> dict[str, Any]:
        return {
            "asked_width": self.asked_width,
            "given_width": self.given_width,
            "asked_depth": self.asked_depth,
            "narrowing": self.narrowing,
            "fields": {field: {"teacher": old, "student": new} for field, (old, new) in self.fields.items()},
        }


def student_specs(
    config: PretrainedConfig, anatomy: Anatomy, width: float, depth: float | int | None = None,
    depths: tuple[int, ...] | None = None, narrowing: str = "auto", teachers: Sequence[PretrainedConfig] = (),
    kept: Sequence[Sequence[int] | None] = (),
) -> list[StudentSpec]:  # fmt: skip
    """The configs that a student `width` times as wide may have: they differ in how its attention becomes narrower.

    Args:
        config: the widest teacher's config.
        anatomy: its anatomy.
        width: share of the residual width, in (0, 1].
        depth: layers of every stack, or below 1 (or as a float) their share of the deepest teacher's; None for all.
        depths: layers of every stack of the deepest teacher, where that is not this one.
        narrowing: fewer-heads, smaller-heads, all-heads, or auto for any, the more promising first.
        teachers: all teachers' configs, whose heads may become one student's.
        kept: per stack, which of this teacher's layers the student's stand for, whose kinds (attention in a window or
            not) they take; spread evenly where that is not said.

    Raises:
        UserError: no whole head, no channel or no layer is left, or the family cannot be built at that size.
    """
    ffn = _ffn(config, anatomy, width)
    found = [
        _target(config, anatomy, SizeRequest(width, depth, depths, kept), ffn | shape.fields, shape)
        for shape in attention_shapes(config, anatomy, width, narrowing, teachers)
    ]
    # Where heads are alike in both, there is nothing to choose.
    known = [target.config.to_dict() for target in found]
    return [target for k, target in enumerate(found) if known[k] not in known[:k]]


@dataclass(frozen=True)
class SizeRequest:
    """What was asked for, as in `student_specs`."""

    width: float
    depth: float | int | None
    depths: tuple[int, ...] | None
    kept: Sequence[Sequence[int] | None] = ()


def _target(
    config: PretrainedConfig, anatomy: Anatomy, wanted: SizeRequest, values: dict[str, int], shape: AttentionShape
) -> StudentSpec:
    student = with_fields(config, values)
    if shape.rotary_base is not None:
        student.rope_parameters = {**student.rope_parameters, "rope_theta": shape.rotary_base}
    sizes = {field: getattr(config, field) or configured_size(config, anatomy, field) for field in values}
    for index, stack in enumerate(anatomy.stacks):
        own = stack.runs if stack.runs > 1 else len(stack.layers)
        deepest = wanted.depths[index] if wanted.depths else own
        layers = _depth(wanted.depth, deepest)
        if layers != own and stack.runs > 1:
            raise UserError(f"the layers of this {config.model_type} share their weights: leave depth out")
        kept = (wanted.kept[index] if wanted.kept else None) or evenly_spaced_layer(layers, own)
        if list(kept) != list(range(own)):
            student = with_layers(student, stack.fields, kept)
        if layers != own:
            values |= dict.fromkeys(stack.fields[:1], layers)
            sizes |= dict.fromkeys(stack.fields[:1], deepest)
    try:
        meta_model(student)
    except BUILD_ERRORS as error:
        raise UserError(f"{config.model_type} cannot be built at width {wanted.width:g} ({values}): {error}") from None
    fields: dict[str, tuple[float, float]] = {field: (sizes[field], new) for field, new in values.items()}
    if shape.rotary_base is not None:
        fields["rope_theta"] = (config.rope_parameters["rope_theta"], round(shape.rotary_base, 6))
    given = shape.hidden / anatomy.residual.size
    return StudentSpec(student, wanted.width, given, fields, wanted.depth, shape.narrowing, shape.rotary_base)


def sizes_at(config: PretrainedConfig, anatomy: Anatomy, width: float) -> dict[str, int]:
    """The sizes that a width gives, by config field; nothing is built, and layers stay as they are.

    Raises:
        UserError: no whole head or no channel is left.
    """
    return _ffn(config, anatomy, width) | attention_shapes(config, anatomy, width, "auto")[0].fields


def _ffn(config: PretrainedConfig, anatomy: Anatomy, width: float) -> dict[str, int]:
    return {
        field: max(1, round(width * configured_size(config, anatomy, field))) for field in fields_of(anatomy, "ffn")
    }


def depth_of(stack: Stack) -> int:
    """How many layers run one after the other."""
    return stack.runs if stack.runs > 1 else len(stack.layers)


def layers_at(stack: Sequence[Stack], depth: float | int | None) -> int:
    """How many layers the student's stack lists, by those of all teachers; layers that run several times count once.

    Raises:
        UserError: there are not that many, or none is left.
    """
    alone = any(one.runs > 1 for one in stack)
    return len(stack[0].layers) if alone else _depth(depth, max(map(depth_of, stack)))


def _depth(asked: float | int | None, deepest: int) -> int:
    """The number of layers that is asked for.

    Raises:
        UserError: there are not that many, or none is left.
    """
    if asked is None:
        return deepest
    share = isinstance(asked, float) and 0 < asked <= 1
    wanted = _round_half_up(asked * deepest) if share else int(asked)
    if not 0 < wanted <= deepest or (not share and wanted != asked):
        raise UserError(
            f"depth {asked:g} of {deepest} layers is not possible: give a share up to 1.0 or 1 to {deepest}"
        )
    return wanted


def _round_half_up(value: float) -> int:
    return int(value + 0.5)

"""The student's spec: width and depth as a config of its family."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from compressor.anatomy import Anatomy, Stack, inspect_config
from compressor.anatomy.layer_fields import with_layers
from compressor.errors import UnsupportedError, UserError
from compressor.fusion.shape.depth import LayerAssignment, evenly_spaced_layer
from compressor.fusion.shape.parts import part_widths, width_of
from compressor.fusion.shape.sizes import AttentionShape, configured_size, fields_of, on_grid, round_half_up
from compressor.fusion.shape.width import attention_shapes
from compressor.fusion.teacher import NamedModel, TeacherGroup
from compressor.models.configs.fields import read_field, repeated_fields, set_field, with_fields
from compressor.models.folder.round_trip import check_round_trip
from compressor.models.folder.save import config_json
from compressor.models.meta import meta_model
from compressor.recipe import FusionOptions
from compressor.recipe.fusion import BY_WIDTH, Ratios


@dataclass(frozen=True)
class StudentSpec:
    """A student's config and sizes.

    Attributes:
        asked_width, given_width: shares of the residual width.
        fields: {config field: (teacher's value, student's)}.
        asked_depth: share or number of layers.
        narrowing: a `Narrowing`, if any.
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
            "narrowing": str(self.narrowing),
            "fields": {field: {"teacher": old, "student": new} for field, (old, new) in self.fields.items()},
        }


@dataclass(frozen=True)
class SizeRequest:
    """The sizes asked for; see `student_specs`."""

    width: float
    depth: float | int | None
    depths: tuple[int, ...] | None
    layers: Sequence[Sequence[int] | None] = ()


def student_specs(
    config: PretrainedConfig, anatomy: Anatomy, width: float, depth: float | int | None = None,
    depths: tuple[int, ...] | None = None, narrowing: str = "auto", teachers: Sequence[PretrainedConfig] = (),
    layers: Sequence[Sequence[int] | None] = (), ratios: Ratios = BY_WIDTH,
) -> list[StudentSpec]:  # fmt: skip
    """The specs of a student `width` times as wide, by ways to narrow attention.

    Args:
        config, anatomy: the widest teacher's.
        width: in (0, 1].
        depth: layers per stack, or a share if a float.
        depths: the deepest teacher's.
        narrowing: a `Narrowing`, or auto for all.
        teachers: whose heads one student may hold.
        layers: per stack, layers that give their kinds (windowed or not).
        ratios: shares of single sizes, and whether they are rounded.

    Raises:
        UserError: no head, channel or layer is left, or the family forbids that size.
        UnsupportedError: fixed coordinates would have to shrink.
    """
    ffn = _ffn_sizes(
        config, anatomy, width if ratios.ffn is None else ratios.ffn, part_widths(config, ratios), ratios.grid
    )
    specs: list[StudentSpec] = []
    refused: list[UnsupportedError | UserError] = []
    for shape in attention_shapes(config, anatomy, width, narrowing, teachers, ratios):
        try:
            specs.append(_spec(config, anatomy, SizeRequest(width, depth, depths, layers), ffn | shape.fields, shape))
        # What this family forbids for one shape it may allow for another.
        except (UnsupportedError, UserError) as error:
            refused.append(error)
    if not specs:
        raise refused[0]
    # Two specs of one config leave nothing to choose.
    configs = [spec.config.to_dict() for spec in specs]
    return [spec for k, spec in enumerate(specs) if configs[k] not in configs[:k]]


def specs_for(
    group: TeacherGroup,
    width: float,
    depth: float | int | None,
    options: FusionOptions,
    assignment: LayerAssignment,
    anchor: NamedModel | None,
) -> list[StudentSpec]:
    """The specs of a fusion's student.

    Raises:
        UserError: see `student_specs`, or the anchor's model type differs.
    """
    configs = [teacher.model.config for teacher in group.teachers]
    anatomies = [teacher.anatomy for teacher in group.teachers]
    widest = widest_teacher(configs, anatomies)
    if anchor is not None:
        return [_spec_of_anchor(anchor[1].config, configs[widest], anatomies[widest], width)]
    stacks = zip(*(anatomy.stacks for anatomy in anatomies), strict=True)
    depths = tuple(max(map(depth_of, stack)) for stack in stacks)
    layers = assignment.of_teacher(widest)
    return student_specs(
        configs[widest], anatomies[widest], width, depth, depths, options.narrowing, configs, layers, options.ratios
    )


def widest_teacher(configs: Sequence[PretrainedConfig], anatomies: Sequence[Anatomy]) -> int:
    """The teacher of the widest residual stream, then of the widest spaces, whatever their order."""

    def size(k: int) -> tuple[int, int, str]:
        spaces = anatomies[k].spaces.values()
        return anatomies[k].residual.size, sum(space.size for space in spaces), config_json(configs[k])

    return max(range(len(configs)), key=size)


def sizes_at(config: PretrainedConfig, anatomy: Anatomy, width: float) -> dict[str, int]:
    """{config field: size} at a width; builds nothing.

    Raises:
        UserError: no head or channel is left.
    """
    return _ffn_sizes(config, anatomy, width) | attention_shapes(config, anatomy, width, "auto")[0].fields


def _check_fixed(model: PreTrainedModel, anatomy: Anatomy, kind: str) -> None:
    """Refuse a student that resizes fixed coordinates, for which there are no maps; those of idle parameters need none.

    Raises:
        UnsupportedError: names the parameter and axis.
    """
    for name, parameter in model.named_parameters():
        for dim, (axis, size) in enumerate(zip(anatomy.axes.get(name, ()), parameter.shape, strict=False)):
            if axis.fixed and axis.size != size and name not in anatomy.idle:
                raise UnsupportedError(
                    f"this {kind} cannot become narrower: {name}, axis {dim}, would shrink from {axis.size} to {size}, "
                    f"and its coordinates have fixed places; width 1 keeps them (compress inspect shows all axes)"
                )


def depth_of(stack: Stack) -> int:
    """Layers that run one after another."""
    return stack.runs if stack.runs > 1 else len(stack.layers)


def student_depths(group: TeacherGroup, depth: float | int | None) -> list[int]:
    """Layers per stack: the anchor's, or `depth` of the deepest teacher's.

    Raises:
        UserError: the depth is impossible.
    """
    if group.anchor is not None:
        return [len(stack.layers) for stack in group.anchor.anatomy.stacks]
    stacks = zip(*(teacher.anatomy.stacks for teacher in group.teachers), strict=True)
    return [_layers_at(stack, depth) for stack in stacks]


def _layers_at(stacks: Sequence[Stack], depth: float | int | None) -> int:
    """Layers in the student's stack; repeated layers count once."""
    shared = any(stack.runs > 1 for stack in stacks)
    return len(stacks[0].layers) if shared else _depth(depth, max(map(depth_of, stacks)))


def _spec(
    config: PretrainedConfig, anatomy: Anatomy, request: SizeRequest, values: dict[str, int], shape: AttentionShape
) -> StudentSpec:
    student = with_fields(config, {**values, **repeated_fields(config, values)})
    for part, base in shape.rotary_bases.items():
        path = f"{part}.rope_parameters" if part else "rope_parameters"
        set_field(student, path, {**read_field(student, path), "rope_theta": base})
    sizes = {field: read_field(config, field) or configured_size(config, anatomy, field) for field in values}
    for index, stack in enumerate(anatomy.stacks):
        listed = depth_of(stack)
        deepest = request.depths[index] if request.depths else listed
        count = _depth(request.depth, deepest)
        if count != listed and stack.runs > 1:
            raise UserError(f"the layers of this {config.model_type} share their weights: leave depth out")
        if count != listed and not stack.fields:
            raise UserError(f"no field of this {config.model_type} config counts its layers: leave depth out")
        layers = (request.layers[index] if request.layers else None) or evenly_spaced_layer(count, listed)
        if list(layers) != list(range(listed)):
            student = with_layers(student, stack.fields, layers)
        if count != listed:
            values |= dict.fromkeys(stack.fields[:1], count)
            sizes |= dict.fromkeys(stack.fields[:1], deepest)
    sizes_given = ", ".join(f"{field} {value}" for field, value in values.items())
    check_round_trip(student, f"a {config.model_type} student of width {request.width:g} ({sizes_given})")
    _check_fixed(meta_model(student), anatomy, config.model_type)
    fields: dict[str, tuple[float, float]] = {field: (sizes[field], new) for field, new in values.items()}
    for part, base in shape.rotary_bases.items():
        path = f"{part}.rope_parameters" if part else "rope_parameters"
        name = path.removesuffix("rope_parameters") + "rope_theta"
        fields[name] = (read_field(config, path)["rope_theta"], round(base, 6))
    width = shape.hidden / anatomy.residual.size
    return StudentSpec(
        student,
        request.width,
        width,
        fields,
        request.depth,
        shape.narrowing,
        next(iter(shape.rotary_bases.values()), None),
    )


def _spec_of_anchor(
    anchor: PretrainedConfig, teacher: PretrainedConfig, anatomy: Anatomy, asked_width: float
) -> StudentSpec:
    fields = {
        field: (read_field(teacher, field), read_field(anchor, field))
        for field, meaning in anatomy.fields.items()
        if meaning != "fixed"
    }
    if anchor.model_type != teacher.model_type:
        raise UserError(f"the anchor is a {anchor.model_type} and the teachers are {teacher.model_type}")
    width = inspect_config(anchor).residual.size / anatomy.residual.size
    return StudentSpec(copy.deepcopy(anchor), asked_width, width, fields)


def _ffn_sizes(
    config: PretrainedConfig,
    anatomy: Anatomy,
    width: float,
    parts: Mapping[str, float] = MappingProxyType({}),
    grid: bool = True,
) -> dict[str, int]:
    """Hidden units of FFNs; `parts`: {part of the config: its width}; `grid`: as in `Ratios`."""
    sizes: dict[str, int] = {}
    for field in fields_of(anatomy, "ffn"):
        full = configured_size(config, anatomy, field)
        size = max(1, round(width_of(field, width, parts) * full))
        sizes[field] = on_grid(size, full) if grid else size
    return sizes


def _depth(asked: float | int | None, deepest: int) -> int:
    """The number of layers asked for; a `UserError` if impossible."""
    if asked is None:
        return deepest
    share = isinstance(asked, float) and 0 < asked <= 1
    depth = round_half_up(asked * deepest) if share else int(asked)
    if not 0 < depth <= deepest or (not share and depth != asked):
        raise UserError(
            f"depth {asked:g} of {deepest} layers is not possible: give a share up to 1.0 or 1 to {deepest}"
        )
    return depth

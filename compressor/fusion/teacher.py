"""Certified teachers with canonical weights."""

from __future__ import annotations

import copy
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.anatomy import Anatomy, LinearOp, Map, Side, Space, apply, canonicalise, inspect_config
from compressor.anatomy.lazy_state import Derived
from compressor.errors import UnsupportedError, UserError
from compressor.models.streamed import blocks_of, streamed_copy, weights_of

#: Name, shape and checksum of every parameter of a model.
WeightChecksum = tuple[tuple[str, tuple[int, ...], int], ...]
#: A model and its name in the report.
NamedModel = tuple[str, PreTrainedModel]


@dataclass(frozen=True)
class LayerSpan:
    """A teacher's layers for one of the student's.

    Attributes:
        layers: none where the teacher waits.
        counterpart: the last one run, which gives heads, units and weights.
    """

    layers: tuple[str, ...]
    counterpart: str


@dataclass(frozen=True, eq=False)
class FusionTeacher:
    """One teacher, ready for transport.  Methods take the student's names.

    Attributes:
        model: canonical, in the teacher's precision.
        state: {parameter: canonical float64 weights}, computed at every access.
        weight: α; all sum to 1.
        spans: {student layer: teacher layers}; its namesake where absent.
    """

    name: str
    model: PreTrainedModel
    anatomy: Anatomy
    state: Mapping[str, Tensor]
    weight: float
    spans: Mapping[str, LayerSpan] = field(default_factory=dict)

    def span(self, layer: str) -> LayerSpan:
        return self.spans.get(layer) or LayerSpan((layer,), layer)

    def local_name(self, name: str) -> str:
        """The teacher's name for a student's module, parameter or space."""
        for layer, span in self.spans.items():
            if name == layer or name.startswith((layer + ".", layer + "/")):
                local = span.counterpart + name[len(layer) :]
                # What the first layer has for the whole stack (T5's table of positions) exists nowhere else.
                return name if name in self.anatomy.axes and local not in self.anatomy.axes else local
        return name

    def space(self, name: str) -> Space:
        """The teacher's space for one of the student's."""
        return self.anatomy.spaces[self.local_name(name)]

    def tensor(self, name: str) -> Tensor | None:
        """A canonical parameter, if any."""
        return self.state.get(self.local_name(name))

    def read_weight(self, op: LinearOp) -> Tensor:
        """A linear weight, [inputs, outputs] float64."""
        return as_input_output(self.state[self.local_name(op.weight)], self.anatomy, op, self.local_name(op.weight))

    def transported(self, maps: Mapping[str, Map], name: str, student: Anatomy) -> Tensor:
        """A parameter in the student's shape, float64."""
        axes = student.axes[name]
        keys = {part.key for axis in axes for part in axis.parts if part.key in maps}
        local = self.local_name(name)
        local_maps = {key if local == name else self.local_name(key): maps[key] for key in keys if key is not None}
        return apply(local_maps, self.state, self.anatomy, [local], {local: axes})[local]

    def resizes_unknown(self, name: str, student: Anatomy) -> bool:
        """Whether a student's parameter has another size along coordinates of which nothing is known."""
        own = self.anatomy.axes.get(self.local_name(name), ())
        return any(axis.fixed and axis.size != mine.size for axis, mine in zip(student.axes[name], own, strict=False))

    def with_spans(self, spans: Mapping[str, LayerSpan]) -> FusionTeacher:
        """The same teacher with assigned layers."""
        return replace(self, spans=spans)


@dataclass(frozen=True, eq=False)
class TeacherGroup:
    """All teachers of a fusion.

    Attributes:
        teachers: sorted unless anchored.
        order: teacher i is the user's order[i].
    """

    teachers: Sequence[FusionTeacher]
    anchor: FusionTeacher | None
    order: Sequence[int]

    @property
    def everyone(self) -> list[FusionTeacher]:
        """The teachers, then the anchor."""
        return [*self.teachers, *([self.anchor] if self.anchor is not None else [])]

    def with_spans(self, spans: Sequence[Mapping[str, LayerSpan]]) -> TeacherGroup:
        """The group with layers assigned, per member of `everyone`."""
        teachers = [
            teacher.with_spans(teacher_spans) for teacher, teacher_spans in zip(self.teachers, spans, strict=False)
        ]
        anchor = self.anchor
        if anchor is not None:
            pairs = zip(teachers, self.teachers, strict=True)
            anchor = next((new for new, old in pairs if old is anchor), anchor.with_spans(spans[-1]))
        return TeacherGroup(teachers, anchor, self.order)


def as_input_output(weight: Tensor, anatomy: Anatomy, op: LinearOp, name: str | None = None) -> Tensor:
    """A weight, input axis first, [inputs, outputs]."""
    return weight if reads_first(anatomy, op, name) else as_matrix(weight).T


def as_matrix(weight: Tensor) -> Tensor:
    """A weight of two dimensions; those of a convolution of single pixels have two more, of size 1."""
    return weight.flatten(1) if weight.dim() > 2 else weight


def reads_first(anatomy: Anatomy, op: LinearOp, name: str | None = None) -> bool:
    """Whether dimension 0 is the input (Conv1D), not the output (Linear)."""
    return not op.tied and anatomy.axes[name or op.weight][0].side is Side.READ


def prepare_teachers(
    teachers: Sequence[NamedModel], weights: Sequence[float], anchor: NamedModel | None, *, canonical: bool
) -> TeacherGroup:
    """Certify teachers and bring them into canonical form.

    Without an anchor they are sorted by checksum, so their order does not matter.

    Raises:
        UserError, UnsupportedError: these teachers cannot be fused.
        CertificateError: an architecture is not understood.
    """
    order = list(range(len(teachers)))
    pairs = list(zip(teachers, weights, strict=True))
    if anchor is None:
        order.sort(key=lambda k: (weights_checksum(teachers[k][1]), weights[k]))
    sorted_teachers, sorted_weights = zip(*(pairs[k] for k in order), strict=True)
    prepared = [
        prepare_teacher(name, model, weight, canonical=canonical)
        for (name, model), weight in zip(sorted_teachers, normalised_weights(sorted_weights), strict=True)
    ]
    _check_alike(prepared)
    if anchor is None:
        return TeacherGroup(prepared, None, order)
    models = [model for _, model in sorted_teachers]
    place = next((k for k, model in enumerate(models) if model is anchor[1]), None)
    return TeacherGroup(
        prepared, prepare_teacher(*anchor, 0.0, canonical=canonical) if place is None else prepared[place], order
    )


def prepare_teacher(name: str, model: PreTrainedModel, weight: float, *, canonical: bool = True) -> FusionTeacher:
    """Certify a teacher and bring a copy of its weights into canonical form.

    Args:
        weight: α.
        canonical: fold norms and scales and centre writers; else keep weights.

    Raises:
        CertificateError, UnsupportedError: the architecture is not understood.
    """
    anatomy = inspect_config(model.config)
    blocks = blocks_of(model)
    weights = {key: value.detach() for key, value in model.named_parameters()} if blocks is None else blocks.source
    state: Mapping[str, Tensor] = Derived(weights)
    if not canonical:
        return FusionTeacher(name, model, anatomy, state, weight)
    if not anatomy.scales and not any(anatomy.rotatable(space.name) for space in anatomy.residuals):
        return FusionTeacher(name, model, anatomy, state, weight)
    state = canonicalise(state, anatomy)
    if blocks is not None:
        return FusionTeacher(name, streamed_copy(model, state), anatomy, state, weight)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter.copy_(state[key])
    return FusionTeacher(name, twin, anatomy, state, weight)


def weights_checksum(model: PreTrainedModel) -> WeightChecksum:
    """Sorted names, shapes and checksums of parameters."""
    weights, checksums = weights_of(model), []
    for name in sorted(name for name, _ in model.named_parameters()):
        value = weights[name]
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        checksums.append((name, tuple(value.shape), zlib.crc32(data.data)))
    return tuple(checksums)


def normalised_weights(weights: Sequence[float]) -> list[float]:
    """Weights that sum to one."""
    total = sum(weights)
    return [weight / total for weight in weights]


def _check_alike(teachers: Sequence[FusionTeacher]) -> None:
    """Raise if parameters, sizes that no map changes or layer runs differ."""
    first = teachers[0]
    for teacher in teachers[1:]:
        odd = sorted(_parameter_kinds(first) ^ _parameter_kinds(teacher))
        if odd:
            raise UserError(
                f"{first.name} and {teacher.name} do not have the same parameters: {odd[0]} is in one of them"
            )
        for name in first.anatomy.axes.keys() & teacher.anatomy.axes.keys():
            sizes, others = _fixed_sizes(first, name), _fixed_sizes(teacher, name)
            if sizes != others:
                raise UserError(
                    f"{first.name} and {teacher.name} differ in a size that no width explains: {name} has "
                    f"{'×'.join(map(str, sizes))} and {'×'.join(map(str, others))}"
                )
        for stack, other in zip(first.anatomy.stacks, teacher.anatomy.stacks, strict=True):
            if stack.runs != other.runs and max(stack.runs, other.runs) > 1:
                raise UnsupportedError(
                    f"{first.name} runs its shared layer {stack.runs} times and {teacher.name} {other.runs} times: "
                    f"different depths of layers that share their weights cannot be fused"
                )


def _fixed_sizes(teacher: FusionTeacher, name: str) -> list[int]:
    """Sizes of a parameter's axes that no map changes."""
    return [axis.size for axis in teacher.anatomy.axes[name] if axis.fixed]


def _parameter_kinds(teacher: FusionTeacher) -> set[str]:
    """Parameter names without layer numbers."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in teacher.anatomy.axes}

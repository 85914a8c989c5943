"""What fusion knows of each teacher: its anatomy, its canonical weights, and a model that computes with them."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.anatomy import Anatomy, LinearOp, Map, Side, Space, apply, canonicalise, inspect_config
from compressor.anatomy.lazy_state import Derived

#: What tells the weights of two models apart.
WeightChecksum = tuple[tuple[str, tuple[int, ...], int], ...]


@dataclass(frozen=True)
class LayerSpan:
    """Which of a teacher's layers stand for one of the student's.

    Attributes:
        run: the teacher's layers that are run, in order; none where the teacher waits for the others.
        shown: the layer whose heads, units and weights the student's layer may take: the last one run.
    """

    run: tuple[str, ...]
    shown: str


@dataclass(frozen=True, eq=False)
class FusionTeacher:
    """One teacher, ready to be transported.  It is asked in the student's names.

    Attributes:
        name: how the report calls it.
        model: computes with the canonical weights, in the teacher's precision.
        anatomy: certified.
        state: {parameter: canonical weights, float64}; computed each time from those of the teacher.
        weight: α, the teacher's share; all teachers' sum to 1.
        routes: {layer of the student: the teacher's layers that stand for it}; those of the same name where absent.
    """

    name: str
    model: PreTrainedModel
    anatomy: Anatomy
    state: Mapping[str, Tensor]
    weight: float
    routes: Mapping[str, LayerSpan] = field(default_factory=dict)

    def route(self, layer: str) -> LayerSpan:
        return self.routes.get(layer) or LayerSpan((layer,), layer)

    def own(self, name: str) -> str:
        """The teacher's name of a module, parameter or space that the student calls `name`."""
        for layer, route in self.routes.items():
            if name == layer or name.startswith((layer + ".", layer + "/")):
                shown = route.shown + name[len(layer) :]
                # What the first layer has for the whole stack (T5's table of positions) has no counterpart elsewhere.
                return name if name in self.anatomy.axes and shown not in self.anatomy.axes else shown
        return name

    def space(self, name: str) -> Space:
        """The teacher's space that stands for one of the student's."""
        return self.anatomy.spaces[self.own(name)]

    def tensor(self, name: str) -> Tensor | None:
        """A parameter by the student's name; None where there is none."""
        return self.state.get(self.own(name))

    def read_weight(self, step: LinearOp) -> Tensor:
        """The matrix of one of the student's steps as [inputs, outputs], float64."""
        return as_input_output(self.state[self.own(step.weight)], self.anatomy, step, self.own(step.weight))

    def transported(self, maps: Mapping[str, Map], name: str, student: Anatomy) -> Tensor:
        """A parameter in the student's shape, float64.

        Args:
            maps: {the student's map key: map}.
            name: the student's name of it.
            student: its anatomy.
        """
        axes = student.axes[name]
        keys = {part.key for axis in axes for part in axis.parts if part.key in maps}
        theirs = self.own(name)
        own = {key if theirs == name else self.own(key): maps[key] for key in keys if key is not None}
        return apply(own, self.state, self.anatomy, [theirs], {theirs: axes})[theirs]


def as_input_output(weight: Tensor, anatomy: Anatomy, step: LinearOp, name: str | None = None) -> Tensor:
    """A linear module's weight with its input axis first."""
    return weight if reads_first(anatomy, step, name) else weight.T


def reads_first(anatomy: Anatomy, step: LinearOp, name: str | None = None) -> bool:
    """Whether dimension 0 of the module's weight is its input (Conv1D) and not its output (Linear)."""
    return not step.tied and anatomy.axes[name or step.weight][0].side is Side.READ


def prepare_teacher(name: str, model: PreTrainedModel, weight: float, *, canonical: bool = True) -> FusionTeacher:
    """Certify a teacher's anatomy and bring its weights into canonical form; the teacher itself stays untouched.

    Args:
        name: how the report calls the teacher.
        model: the teacher.
        weight: α.
        canonical: fold norms and scales and centre writers; otherwise the weights are taken as they are.

    Raises:
        CertificateError, UnsupportedError: the architecture is not understood.
    """
    anatomy = inspect_config(model.config)
    state: Mapping[str, Tensor] = Derived({key: value.detach() for key, value in model.named_parameters()})
    if not canonical:
        return FusionTeacher(name, model, anatomy, state, weight)
    if not anatomy.scales and not any(anatomy.rotatable(space.name) for space in anatomy.residuals):
        return FusionTeacher(name, model, anatomy, state, weight)
    state = canonicalise(state, anatomy)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter.copy_(state[key])
    return FusionTeacher(name, twin, anatomy, state, weight)


def weights_checksum(model: PreTrainedModel) -> WeightChecksum:
    """Name, shape and checksum of every parameter, in the order of the names."""
    found = []
    for name, value in sorted(model.named_parameters()):
        held = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found.append((name, tuple(value.shape), zlib.crc32(held.data)))
    return tuple(found)


def with_routes(source: FusionTeacher, routes: Mapping[str, LayerSpan]) -> FusionTeacher:
    """The source with its layers assigned to the student's."""
    return replace(source, routes=routes)


def normalised_weights(weights: Sequence[float]) -> list[float]:
    """Weights that sum to one."""
    total = sum(weights)
    return [weight / total for weight in weights]

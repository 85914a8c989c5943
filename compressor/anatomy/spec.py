"""An anatomy: axes of every parameter, and the modules that they flow through."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from compressor.anatomy.axes import Axis, Kind, Side, Space


@dataclass(frozen=True)
class LinearOp:
    """One linear module.

    Attributes:
        writes, reads: spaces; None if fixed.
        checkpoint: module whose input (output if `checkpoint_is_output`) is the stream after its addition.
        gain: factor there (Granite).
        tied: also an embedding.
        joins: site after its sum.
        source: the first linear module of a run of them that read the same tensor, if it is another one.
    """

    module: str
    writes: str | None
    reads: str | None
    weight: str
    checkpoint: str | None = None
    checkpoint_is_output: bool = False
    gain: float = 1.0
    tied: bool = False
    joins: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class Norm:
    """A normalisation.

    Attributes:
        readers: of exactly its output.
        space: None for scales per head channel.
        unit_scale: weight for scale one: 1, or 0 for 1 + weight (Gemma).
        folded: into its readers.
        checkpoint, checkpoint_is_output, gain, joins: as in `LinearOp`.
    """

    module: str
    readers: tuple[str, ...]
    space: str | None
    unit_scale: float = 1.0
    folded: bool = False
    checkpoint: str | None = None
    checkpoint_is_output: bool = False
    gain: float = 1.0
    joins: str | None = None


@dataclass(frozen=True)
class LayerScale:
    """A vector that scales a linear output before addition."""

    parameter: str
    writer: str


@dataclass(frozen=True)
class Stack:
    """An encoder or a decoder.

    Attributes:
        layers: paths; one if shared (ALBERT).
        fields: that count layers or runs.
        runs: of every layer.
    """

    layers: tuple[str, ...]
    fields: tuple[str, ...]
    residual: str
    runs: int = 1


@dataclass(frozen=True)
class Anatomy:
    """A model's interchangeable coordinates, their writers and readers.

    Attributes:
        stacks, flow: in call order.
        centred: residual spaces whose writers may be centred.
        fields: {config field: meaning}.
        sized: {config field: spaces that it sizes}.
        tokens: {module: index of its tokens' stack}.
        output: space, without a head.
        outputs: {output: its space}, without a head.
        errors: {space or "all": relative change of answers}.
        sensitivity: {space: least change by a wrong map}.
        pinned: {space or parameter that stays as it is: why}.
        idle: parameters that no input of this class reaches.
    """

    model_class: str
    spaces: Mapping[str, Space]
    axes: Mapping[str, tuple[Axis, ...]]
    stacks: tuple[Stack, ...]
    flow: tuple[LinearOp | Norm, ...]
    fields: Mapping[str, str]
    scales: tuple[LayerScale, ...] = ()
    centred: frozenset[str] = frozenset()
    output: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    sized: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers, by stack."""
        return tuple(layer for stack in self.stacks for layer in stack.layers)

    @property
    def steps(self) -> tuple[LinearOp, ...]:
        """Linear modules in call order."""
        return tuple(item for item in self.flow if isinstance(item, LinearOp))

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Norms in call order."""
        return tuple(item for item in self.flow if isinstance(item, Norm))

    @property
    def residuals(self) -> tuple[Space, ...]:
        """Residual spaces; two for encoder and decoder."""
        return tuple(space for space in self.spaces.values() if space.kind is Kind.RESIDUAL)

    @property
    def residual(self) -> Space:
        """The first residual space; widths agree."""
        return self.residuals[0]

    def rotatable(self, space: str) -> bool:
        """Whether a residual space may be rotated: norms fold, or only a tied head reads them."""
        if space in self.spaces and self.spaces[space].placed:
            return False
        tied = {step.module for step in self.steps if step.tied}
        norms = [norm for norm in self.norms if norm.space == space]
        free = [norm for norm in norms if norm.folded or (norm.readers and tied.issuperset(norm.readers))]
        return len(free) == len(norms) and any(norm.folded for norm in norms)

    @property
    def canonical(self) -> bool:
        """Whether all residual spaces may be rotated."""
        return all(self.rotatable(space.name) for space in self.residuals)

    @property
    def error(self) -> float:
        """The certificate's largest error."""
        return max(self.errors.values(), default=float("nan"))

    @property
    def proven(self) -> float:
        """The share of weights that took part in the proof, or keep their size because no trial reaches them."""
        sizes = {name: math.prod(axis.size for axis in axes) for name, axes in self.axes.items()}
        return 1 - sum(sizes[name] for name in self.idle) / max(sum(sizes.values()), 1)

    def parameters_of(self, space: str) -> list[str]:
        """Parameters with an axis in a space."""
        return [name for name, axes in self.axes.items() if any(axis.roles_in(space) is not None for axis in axes)]

    def describe(self, space: str) -> str:
        """A space's uses as text, similar layers on one line; KeyError if unknown."""
        described = self.spaces[space]
        heads = f", {described.heads} heads of {described.head_dim}" if described.kind is Kind.ATTENTION else ""
        groups = f" in {described.groups} groups" if described.groups != described.heads else ""
        lines = [f"{space}: {described.kind}, {described.size} coordinates{heads}{groups}"]
        alike: dict[tuple[str, str, str], list[str]] = {}
        for verb, name, end in self._uses(space):
            alike.setdefault((verb, re.sub(r"\.\d+\.", ".*.", name), end), []).append(name)
        for (verb, pattern, end), names in alike.items():
            lines.append(f"  {verb} {names[0] if len(names) == 1 else f'{pattern} ({len(names)} times)'}, {end}")
        return "\n".join(lines)

    def _uses(self, space: str) -> list[tuple[str, str, str]]:
        """(verb, parameter, axis) of uses, writers first."""
        vectors = {f"{norm.module}.{end}": "normalised by" for norm in self.norms for end in ("weight", "bias")}
        vectors |= {scale.parameter: "scaled by" for scale in self.scales}
        sides = {Side.WRITE: "written by", Side.READ: "read by"}
        uses = [
            (vectors.get(name, sides[axis.side]), name, f"axis {dim}{roles}")
            for name, axes in self.axes.items()
            for dim, axis in enumerate(axes)
            if (roles := axis.roles_in(space)) is not None
        ]
        uses += [("read by", step.weight, "tied") for step in self.steps if step.tied and step.reads == space]
        order = ("written by", "normalised by", "scaled by", "read by")
        return sorted(uses, key=lambda use: order.index(use[0]))

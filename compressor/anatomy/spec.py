"""The types of an anatomy: spaces, axes of parameters, and the flow between modules.

An anatomy is a table {parameter: axes}.  An axis has parts, and a part names the *key* of the map that transports it: a
space, a role of an attention space, or None (fixed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Side(StrEnum):
    """Whether an axis writes the values of a space or reads them."""

    WRITE = "write"
    READ = "read"


class Kind(StrEnum):
    """The sort of coordinates of a space."""

    RESIDUAL = "residual"
    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    ATTENTION = "attention"
    EXPERTS = "experts"


class Role(StrEnum):
    """The ends of an attention space, each a set of heads × channels.

    Queries meet keys, and outputs read values: each pair shares one map.  HEADS is a bias per head.
    """

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    OUTPUT = "output"
    HEADS = "heads"


@dataclass(frozen=True)
class Space:
    """A set of interchangeable coordinates.

    Attributes:
        name: its key.
        kind: of its coordinates.
        size: coordinates; of an attention space heads · head_dim.
        heads, groups, head_dim: query heads, key–value groups, channels per head.
        rotary: query–key channels have a fixed place in their head.
        pairs: layout of rotary pairs, "halves" or "neighbours"; "" if unknown.
        head_position_fixed: heads are not interchangeable (ALiBi).
        scaled: query–key products are divided by the root of the number of channels.
        order: equal for attention spaces that share the order of their heads (T5).
        experts: for hidden units per expert, the space of the experts.
        copies: the number of those experts, else 1.
    """

    name: str
    kind: Kind
    size: int
    heads: int = 1
    groups: int = 1
    head_dim: int = 1
    rotary: bool = False
    pairs: str = ""
    head_position_fixed: bool = False
    scaled: bool = True
    order: str | None = None
    experts: str | None = None
    copies: int = 1


@dataclass(frozen=True)
class Part:
    """`size` consecutive coordinates of an axis; `key` names their map, None for fixed ones."""

    key: str | None
    size: int


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter: its parts in order, and its side.

    `interleave` heads alternate their parts (GPT-NeoX: q, k, v of head 0, then of head 1, ...); 1 if parts are whole.
    """

    parts: tuple[Part, ...]
    side: Side
    interleave: int = 1

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def fixed(self) -> bool:
        return all(part.key is None for part in self.parts)

    def roles_in(self, space: str) -> str | None:
        """Its roles in an attention space (": query, key"); "" in another space, None outside of the space."""
        keys = [part.key.partition("/") for part in self.parts if part.key is not None]
        roles = [role for name, _, role in keys if name == space]
        return (": " + ", ".join(roles) if any(roles) else "") if roles else None


@dataclass(frozen=True)
class LinearOp:
    """One linear module.

    Attributes:
        module: its path.
        writes, reads: its spaces; None for a fixed end.
        weight: its parameter.
        checkpoint: for writers of a residual space, the module whose input (output if `checkpoint_is_output`) is the
            stream after this writer's addition.
        gain: factor of the output in that addition (Granite).
        tied: the weight is an embedding as well.
        joins: in a flow graph, the site after the sum that includes its output.
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


@dataclass(frozen=True)
class Norm:
    """A normalisation, and the linear modules that read its output.

    Attributes:
        module: its path.
        readers: linear modules that read exactly its output.
        space: that it normalises; None for a scale per channel of a head.
        unit_scale: the weight that scales by one: 1, or 0 if the scale is 1 + weight (Gemma).
        folded: scale and shift fold into the readers.
        checkpoint, checkpoint_is_output, gain, joins: as in `LinearOp`, for a norm before a residual addition.
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
    """A vector that multiplies the output of a linear module before the residual addition."""

    parameter: str
    writer: str


@dataclass(frozen=True)
class Stack:
    """Layers that run one after the other: an encoder or a decoder.

    Attributes:
        layers: their paths; a single one for shared weights (ALBERT).
        fields: config fields that count the layers or runs.
        residual: their residual space.
        runs: of every layer.
    """

    layers: tuple[str, ...]
    fields: tuple[str, ...]
    residual: str
    runs: int = 1


@dataclass(frozen=True)
class Anatomy:
    """The interchangeable coordinates of a model, and the parameters that write and read them.

    Attributes:
        model_class: of transformers.
        spaces: {name: space}.
        axes: {parameter: axes}.
        stacks: of layers, in call order.
        flow: linear modules and norms, in call order.
        scales: layer scales.
        centred: residual spaces whose writers may be centred.
        fields: {config field: meaning}.
        tokens: {module: index of the stack whose tokens it works on}.
        output: space of the output of a model without a head.
        errors: the certificate, {space or "all": relative change of the logits}.
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
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of all layers, stack after stack."""
        return tuple(layer for stack in self.stacks for layer in stack.layers)

    @property
    def steps(self) -> tuple[LinearOp, ...]:
        """The linear modules, in the order of the forward pass."""
        return tuple(item for item in self.flow if isinstance(item, LinearOp))

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms, in the order of the forward pass."""
        return tuple(item for item in self.flow if isinstance(item, Norm))

    @property
    def residuals(self) -> tuple[Space, ...]:
        """The residual spaces; two if encoder and decoder have one each."""
        return tuple(space for space in self.spaces.values() if space.kind is Kind.RESIDUAL)

    @property
    def residual(self) -> Space:
        """The first residual space; all have the same width."""
        return self.residuals[0]

    def rotatable(self, space: str) -> bool:
        """Whether a residual space may be rotated: its norms fold, or only a tied head reads them."""
        tied = {step.module for step in self.steps if step.tied}
        norms = [norm for norm in self.norms if norm.space == space]
        free = [norm for norm in norms if norm.folded or (norm.readers and tied.issuperset(norm.readers))]
        return len(free) == len(norms) and any(norm.folded for norm in norms)

    @property
    def canonical(self) -> bool:
        """Whether every residual space may be rotated."""
        return all(self.rotatable(space.name) for space in self.residuals)

    @property
    def error(self) -> float:
        """The largest relative change of the logits in the certificate."""
        return max(self.errors.values(), default=float("nan"))

    def describe(self, space: str) -> str:
        """The parameters that write, normalise, scale and read a space, as lines of text; similar layers share a line.

        Raises:
            KeyError: there is no such space.
        """
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
        """(verb, parameter, its axis) of every use of a space, writers first."""
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


def map_key(space: str, role: Role | None = None) -> str:
    """The key of a map: the space, with `/role` for the ends of an attention space."""
    return space if role is None else f"{space}/{role.value}"

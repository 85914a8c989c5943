"""The vocabulary of an anatomy: spaces, the axes that belong to them, and the flow between modules.

An anatomy is a table {parameter: axes}.  Every axis is a tuple of parts, and every part names the *key* of the map that
transports it: a space of interchangeable coordinates, or one role of an attention space, or nothing (fixed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Side(StrEnum):
    """Whether an axis produces a space's values (writer) or consumes them (reader)."""

    WRITE = "write"
    READ = "read"


class Kind(StrEnum):
    """What sort of coordinates a space holds."""

    RESIDUAL = "residual"
    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    ATTENTION = "attention"
    EXPERTS = "experts"


class Role(StrEnum):
    """The four ends of an attention space, each a set of heads × channels.

    Queries and keys are contracted with each other, values are read by the output projection after the attention
    has mixed tokens: so query and key share one map, value and output another.  A bias for every head is mapped by
    heads alone.
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
        kind: what sort of coordinates.
        size: how many; of an attention space heads · head_dim.
        heads, groups, head_dim: query heads, key–value groups, channels of each.
        rotary: query–key channels have a place inside their head (rotary positions, a scale per channel).
        pairs: how rotary channels are paired ("halves" or "neighbours"); "" where that is not known.
        head_position_fixed: heads have a place (ALiBi slopes).
        scaled: products of queries and keys are divided by the root of the number of channels.
        order: attention spaces of the same order share the order of their heads (T5's relative bias).
        experts: of hidden units that every expert has for itself, the space of the experts; else None.
        copies: how many experts those are, else 1.
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
    """A stretch of an axis: `size` coordinates that the map called `key` transports; `key` None is fixed."""

    key: str | None
    size: int


@dataclass(frozen=True)
class Axis:
    """One axis of one parameter: its parts in order, and its side.

    `interleave` is the number of heads whose parts alternate (GPT-NeoX: q, k, v of head 0, then of head 1, ...);
    1 means that the parts are concatenated whole.
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


@dataclass(frozen=True)
class LinearOp:
    """One linear module of the model in the order of the forward pass.

    Attributes:
        module: its path.
        writes, reads: the spaces that it connects; None where an end is fixed.
        weight: the parameter that it multiplies by.
        checkpoint: of writers of a residual space, the module whose input (or whose output, when
            `checkpoint_is_output`) is the residual stream that this writer's output has been added to.
        gain: what this writer's output is multiplied by before it is added (Granite's residual multiplier).
        tied: the weight is an embedding as well.
        joins: in a flow graph, the site behind the sum that its output is added to; None where that is what it writes.
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
    """A normalisation, and the linear modules that read its output directly.

    Attributes:
        module: its path.
        readers: linear modules that read exactly what it returns.
        space: the space that it normalises over; None where its scale is fixed (a scale per channel of a head).
        unit_scale: the value of its weight that scales by one: 1, or 0 where the scale is 1 + weight (Gemma).
        folded: whether its scale (and shift) could be folded into those readers without changing the logits.
        checkpoint, checkpoint_is_output, gain, joins: of a norm whose output is added to the residual stream, as of a
            `LinearOp`.
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
    """A vector that multiplies what a linear module writes to the residual stream (layer scale)."""

    parameter: str
    writer: str


@dataclass(frozen=True)
class Stack:
    """Layers that run one after the other: an encoder, a decoder.

    Attributes:
        layers: their paths, in order; a layer that runs several times (ALBERT) is named once.
        fields: the config fields that count the layers (or the runs).
        residual: the residual space that runs through them.
        runs: how often every layer runs.
    """

    layers: tuple[str, ...]
    fields: tuple[str, ...]
    residual: str
    runs: int = 1


@dataclass(frozen=True)
class Anatomy:
    """What was understood of a model: which coordinates are interchangeable and where they are written and read.

    Attributes:
        model_class: the transformers class.
        spaces: {name: space}.
        axes: {parameter: its axes}.
        stacks: the stacks of layers, in the order of the forward pass.
        flow: linear modules and norms in the order of the forward pass.
        scales: layer scales.
        centred: residual spaces whose writers may be centred without changing the logits.
        fields: {config field: what it sizes}.
        tokens: {module: the stack whose tokens it works on}; cross-attention reads the encoder's.
        output: the space of what a model without a head puts out; None for logits.
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
        """The residual spaces; several where encoder and decoder have one each."""
        return tuple(space for space in self.spaces.values() if space.kind is Kind.RESIDUAL)

    @property
    def residual(self) -> Space:
        """The first residual space; all are of one width."""
        return self.residuals[0]

    def rotatable(self, space: str) -> bool:
        """Whether the norms over a residual space fold into their readers: its coordinates may then be rotated.

        A last norm that only a head reads which shares its weight with the embedding keeps its scale; it is fitted.
        """
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
        """The certificate: the largest relative change of the logits under any permutation tried."""
        return max(self.errors.values(), default=float("nan"))


def map_key(space: str, role: Role | None = None) -> str:
    """The key of a map: the space's name, with `/role` for the ends of an attention space."""
    return space if role is None else f"{space}/{role.value}"

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
    HIDDEN = "hidden"
    ATTENTION = "attention"


class Role(StrEnum):
    """The four ends of an attention space, each a set of heads × channels.

    Queries and keys are contracted with each other, values are read by the output projection after the attention
    has mixed tokens: so query and key share one map, value and output another.
    """

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    OUTPUT = "output"


@dataclass(frozen=True)
class Space:
    """A set of interchangeable coordinates.

    `size` counts coordinates.  An attention space has `heads` query heads in `groups` key–value groups, of `head_dim`
    channels each, and `size = heads · head_dim`; `rotary` forbids any map of query–key channels inside a head.
    """

    name: str
    kind: Kind
    size: int
    heads: int = 1
    groups: int = 1
    head_dim: int = 1
    rotary: bool = False


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
class Step:
    """One linear module of the model in the order of the forward pass.

    `checkpoint` is set for writers of the residual space: the module whose input (or whose output, when
    `checkpoint_is_output`) is the residual stream that this writer's output has been added to.
    """

    module: str
    writes: str | None
    reads: str | None
    checkpoint: str | None = None
    checkpoint_is_output: bool = False


@dataclass(frozen=True)
class Norm:
    """A normalisation over the residual space, and the linear modules that read its output directly.

    `folded` says whether its scale (and shift) could be folded into those readers without changing the logits.
    """

    module: str
    readers: tuple[str, ...]
    folded: bool = False


@dataclass(frozen=True)
class Anatomy:
    """What was understood of a model: which coordinates are interchangeable and where they are written and read.

    Attributes:
        model_class: the transformers class.
        spaces: {name: space}.
        axes: {parameter: its axes}.
        layers: paths of the layer modules, in order.
        flow: linear modules and residual norms in the order of the forward pass.
        centred: whether residual writers may be centred without changing the logits.
        fields: {config field: what it sizes}.
        errors: the certificate, {space or "all": relative change of the logits}.
    """

    model_class: str
    spaces: Mapping[str, Space]
    axes: Mapping[str, tuple[Axis, ...]]
    layers: tuple[str, ...]
    flow: tuple[Step | Norm, ...]
    centred: bool
    fields: Mapping[str, str]
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The linear modules, in the order of the forward pass."""
        return tuple(item for item in self.flow if isinstance(item, Step))

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms over the residual space, in the order of the forward pass."""
        return tuple(item for item in self.flow if isinstance(item, Norm))

    @property
    def residual(self) -> Space:
        """The residual space."""
        return next(space for space in self.spaces.values() if space.kind is Kind.RESIDUAL)

    @property
    def canonical(self) -> bool:
        """Whether every residual norm folds into its readers: the residual coordinates may then be rotated."""
        return bool(self.norms) and all(norm.folded for norm in self.norms)

    @property
    def error(self) -> float:
        """The certificate: the largest relative change of the logits under any permutation tried."""
        return max(self.errors.values(), default=float("nan"))


def map_key(space: str, role: Role | None = None) -> str:
    """The key of a map: the space's name, with `/role` for the ends of an attention space."""
    return space if role is None else f"{space}/{role.value}"

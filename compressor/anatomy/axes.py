"""Spaces, and the axes of parameters that lie in them.

Parts of axes name the *key* of their map: a space, a role of attention, or None (fixed).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """Whether an axis writes or reads."""

    WRITE = "write"
    READ = "read"


class Kind(StrEnum):
    """The sort of a space's coordinates."""

    RESIDUAL = "residual"
    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    ATTENTION = "attention"
    EXPERTS = "experts"


class Role(StrEnum):
    """Ends of an attention space.

    Queries and keys share a map, as do values and outputs; HEADS is a bias per head.
    """

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    OUTPUT = "output"
    HEADS = "heads"


@dataclass(frozen=True)
class Space:
    """Interchangeable coordinates.

    Attributes:
        size: for attention heads · head_dim.
        heads, groups, head_dim: query heads, key–value groups, channels.
        rotary: query–key channels are fixed.
        pairs: "halves", "neighbours", or "" if unknown.
        head_position_fixed: heads are not interchangeable (ALiBi).
        placed: coordinates of a stream have fixed places (sinusoidal positions), so it keeps its width.
        scaled: query–key products are divided by √channels.
        mixable: channels may be mixed; gates and scales of single ones forbid it.
        order: spaces of equal order share it (T5).
        experts, copies: experts' space and number.
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
    placed: bool = False
    scaled: bool = True
    mixable: bool = True
    order: str | None = None
    experts: str | None = None
    copies: int = 1


@dataclass(frozen=True)
class Part:
    """`size` coordinates; `key` names their map, None if fixed."""

    key: str | None
    size: int


@dataclass(frozen=True)
class Axis:
    """A parameter's axis: parts and side.

    `interleave` heads alternate their parts (GPT-NeoX); else 1.
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
        """Roles in attention (": query, key"), else ""; None outside the space."""
        keys = [part.key.partition("/") for part in self.parts if part.key is not None]
        roles = [role for name, _, role in keys if name == space]
        return (": " + ", ".join(roles) if any(roles) else "") if roles else None


def map_key(space: str, role: Role | None = None) -> str:
    """A map's key: space, with `/role` for attention."""
    return space if role is None else f"{space}/{role.value}"

"""Residual streams that are narrowed apart: towers of composite models, stages of hierarchical ones."""

from __future__ import annotations

from dataclasses import replace

from compressor.anatomy import Anatomy, Axis, Kind, Side, Space
from compressor.anatomy.fields import Meaning

#: Fields that tie the streams which they size.
_SHARED = (Meaning.HIDDEN, Meaning.HEADS, Meaning.GROUPS, Meaning.HEAD_DIM)


def split_streams(anatomy: Anatomy) -> list[Anatomy]:
    """The anatomy with the residual, attention spaces and fields of one group of streams each.

    Streams that one field sizes (an encoder's and its decoder's) are of one group; the first residual's group comes
    first.
    """
    groups: dict[str, set[str]] = {space.name: {space.name} for space in anatomy.residuals}
    streams = {name: stream_of(space, anatomy) for name, space in anatomy.spaces.items()}
    fields = {field: meaning for field, meaning in anatomy.fields.items() if meaning in _SHARED}
    sizing = {
        field: list(dict.fromkeys(streams[name] for name in anatomy.sized.get(field, ()) if _is_wide(anatomy, name)))
        for field in fields
    }
    for tied in sizing.values():
        merged = set().union(*(groups[name] for name in tied if name))
        groups |= dict.fromkeys(merged, merged)
    found: list[Anatomy] = []
    for members in {id(group): group for group in groups.values()}.values():
        spaces = {
            name: space
            for name, space in anatomy.spaces.items()
            if space.kind in (Kind.RESIDUAL, Kind.ATTENTION) and streams[name] in members
        }
        # A field that sizes no space known by name belongs to the first group, as in models of one stream.
        own = {f: fields[f] for f in fields if members & set(sizing[f]) or (not found and not any(sizing[f]))}
        found.append(replace(anatomy, spaces=spaces, fields=own))
    return found


def keeps_width(anatomy: Anatomy) -> bool:
    """Whether one group's streams have fixed places, or no field that sizes them."""
    return any(space.placed for space in anatomy.residuals) or Meaning.HIDDEN not in anatomy.fields.values()


def stream_of(space: Space, anatomy: Anatomy) -> str:
    """The residual space that a space is, or that what reads it writes; else the first."""
    if space.kind is Kind.RESIDUAL:
        return space.name
    residuals = {other.name for other in anatomy.residuals}
    for axes in anatomy.axes.values():
        if any(axis.side is Side.READ and axis.roles_in(space.name) is not None for axis in axes):
            written = next((name for axis in axes if (name := _written(axis, residuals))), "")
            if written:
                return written
    return anatomy.residual.name


def _written(axis: Axis, residuals: set[str]) -> str:
    if axis.side is not Side.WRITE:
        return ""
    return next((part.key for part in axis.parts if part.key in residuals), "")


def _is_wide(anatomy: Anatomy, name: str) -> bool:
    return name in anatomy.spaces and anatomy.spaces[name].kind in (Kind.RESIDUAL, Kind.ATTENTION)

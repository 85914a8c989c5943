"""Anatomies and plans in a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from compressor.bench.rows import format_count, format_threads
from compressor.utils.out_of_memory import format_bytes

if TYPE_CHECKING:
    from compressor.anatomy import Anatomy, Axis, Space


def render_anatomy(name: str, anatomy: Anatomy) -> list[RenderableType]:
    """Spaces, axes by parameter with the layers collapsed, and the certificate."""
    # Here, since it brings torch and transformers: reports, which this module renders too, are shown without.
    from compressor.anatomy import CERTIFICATE_TOLERANCE

    collapse = _collapser(anatomy.layers)
    axes = _table("parameter", "axes (→ writes a space, ← reads one)")
    for pattern, count, described in _patterns(anatomy, collapse):
        axes.add_row(Text(pattern if count == 1 else f"{pattern}  ×{count}"), Text(described))
    spaces = _table("space", "coordinates")
    seen: dict[str, tuple[Space, int]] = {}
    for space in anatomy.spaces.values():
        first, count = seen.get(collapse(space.name), (space, 0))
        seen[collapse(space.name)] = (first, count + 1)
    for pattern, (space, count) in seen.items():
        spaces.add_row(Text(pattern if count == 1 else f"{pattern}  ×{count}"), Text(_coordinates(space)))
    sizes = ", ".join(f"{field} ({meaning})" for field, meaning in anatomy.fields.items())
    held = "holds" if anatomy.error <= CERTIFICATE_TOLERANCE else "does NOT hold"
    return [
        f"{name}: {anatomy.model_class}, {_layers(anatomy)}",
        spaces,
        axes,
        f"config fields: {sizes}",
        *_residuals(anatomy),
        f"certificate {held}: permuting every space changes {'the logits' if anatomy.output is None else 'its output'} "
        f"by at most {anatomy.error:.1e} relative (at most {CERTIFICATE_TOLERANCE:.0e} is allowed)",
    ]


def render_plan(plan: Mapping[str, Any]) -> list[RenderableType]:
    """Cost before and after, and the shapes."""
    costs = _table("model", "params (M)", "GMACs", "MB", numbers=3)
    for row in (*plan["teachers"], plan["student"]):
        costs.add_row(
            Text(row["name"]), f"{row['parameters'] / 1e6:.3f}", f"{row['macs'] / 1e9:.4f}", f"{row['bytes'] / 1e6:.2f}"
        )
    target, student = plan["target"], plan["student"]
    largest = max(plan["teachers"], key=lambda row: row["parameters"])
    shapes = _table("config field", "teacher", "student", numbers=2)
    for field, sizes in target["fields"].items():
        shapes.add_row(field, str(sizes["teacher"]), str(sizes["student"]))
    tokens = f" (MACs at {plan['length']} tokens)" if plan["length"] else ""
    return [
        costs,
        shapes,
        *(_other(target, other) for other in plan["others"]),
        *(describe_budget(plan["budget"]) if plan.get("budget") else []),
        f"width: {target['asked_width']:.4g} {'picked' if plan.get('budget') else 'asked'}, "
        f"{target['given_width']:.4g} given; the student has "
        f"{student['parameters'] / largest['parameters']:.1%} of the largest teacher's parameters and "
        f"{student['macs'] / largest['macs']:.1%} of its MACs{tokens}",
        *_said_memory(plan.get("memory")),
        f"certificate: {plan['certificate']:.1e} (no weights were read)",
    ]


def _other(target: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    ours, theirs = target["fields"], other["fields"]
    # A field that one of them does not name is as the teacher has it.
    sizes = {
        field: [own.get(field, size)["student" if field in own else "teacher"] for own in (ours, theirs)]
        for field, size in {**ours, **theirs}.items()
    }
    differing = [f"{field} {size}" for field, (own, size) in sizes.items() if size != own]
    return f"or with {other['narrowing'].replace('-', ' ')} if held-out samples prefer it: {', '.join(differing)}"


def _said_memory(memory: Mapping[str, Any] | None) -> list[str]:
    """What a fusion holds at least beside what is free, a line; none of a plan of a former version."""
    if memory is None:
        return []
    limits = "".join(f" ({name} allows {format_bytes(size)})" for name, size in memory["limits"].items())
    free = "" if memory["free"] is None else f", and {format_bytes(memory['free'])} are free{limits}"
    short = memory["free"] is not None and memory["free"] < memory["least"]
    return [f"memory: a fusion holds {format_bytes(memory['least'])} at least{free}{': too little' if short else ''}"]


def describe_budget(budget: Mapping[str, Any]) -> list[str]:
    """What a budget asked for and what the picked width costs, a line each."""
    lines = []
    asked, given = budget["asked"], budget["given"]
    for what, name in (("params", "parameters"), ("flops", "MACs")):
        if what in asked:
            wanted = f"{asked[what]:g} of the widest teacher's" if asked[what] <= 1 else format_count(asked[what])
            lines.append(f"target: {wanted} {name} asked; the nearest width has {format_count(given[what])}")
    if "latency" in asked:
        how = budget["latency"]
        tokens = f" × {how['length']} tokens" if how["length"] else ""
        lines.append(
            f"latency: at most {asked['latency']:g} ms asked; measured {given['p50_ms']:.3g} ms (p50 of batches of "
            f"{how['batch_size']}{tokens} in {how['backend']}, {format_threads(how['threads'])}, random weights)"
        )
        tried = [f"{one['width']:.4g} ({one['p50_ms']:.3g} ms)" for one in budget["looked_at"] if "p50_ms" in one]
        lines.append(f"widths tried: {', '.join(tried)}")
    return lines


def _table(*titles: str, numbers: int = 0) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for index, title in enumerate(titles):
        number = index >= len(titles) - numbers
        table.add_column(title, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _collapser(layers: Sequence[str]) -> Any:
    """What replaces the index of a layer by a star."""
    prefixes = {layer.rpartition(".")[0] for layer in layers}
    pattern = re.compile(rf"({'|'.join(re.escape(prefix) for prefix in prefixes)})\.\d+") if prefixes else None
    return lambda name: pattern.sub(r"\1.*", name) if pattern else name


def _patterns(anatomy: Anatomy, collapse: Any) -> list[tuple[str, int, str]]:
    """(pattern, parameters that it stands for, its axes); layers that differ in an axis get rows of their own."""
    counts: dict[tuple[str, str], int] = {}
    for name, axes in anatomy.axes.items():
        key = (collapse(name), " · ".join(_axis(axis, collapse) for axis in axes))
        counts[key] = counts.get(key, 0) + 1
    return [(pattern, count, described) for (pattern, described), count in counts.items()]


def _axis(axis: Axis, collapse: Any) -> str:
    if axis.fixed:
        return str(axis.size)
    arrow = "→" if axis.side == "write" else "←"
    parts = [f"{part.size} {_short(collapse(part.key))}" if part.key else f"{part.size}" for part in axis.parts]
    joined = parts[0] if len(parts) == 1 else f"[{' | '.join(parts)}]"
    return f"{arrow} {joined}" + (f" in {axis.interleave} turns" if axis.interleave > 1 else "")


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _layers(anatomy: Anatomy) -> str:
    """How many layers there are, stack by stack, and how often they run."""
    counts = " + ".join(str(len(stack.layers)) for stack in anatomy.stacks)
    runs = max((stack.runs for stack in anatomy.stacks), default=1)
    return f"{counts} layer{'' if counts == '1' else 's'}" + (f", run {runs} times" if runs > 1 else "")


def _residuals(anatomy: Anatomy) -> list[str]:
    """What may be done to the coordinates of every residual space."""
    several = len(anatomy.residuals) > 1
    return [
        (f"{space.name}: " if several else "")
        + f"norms fold into their readers: {'yes' if anatomy.rotatable(space.name) else 'no'}; "
        + f"writers of the residual stream may be centred: {'yes' if space.name in anatomy.centred else 'no'}"
        for space in anatomy.residuals
    ]


def _coordinates(space: Space) -> str:
    from compressor.anatomy import Kind

    match space.kind:
        case Kind.ATTENTION:
            groups = f" in {space.groups} key–value groups" if space.groups != space.heads else ""
            rotary = ", rotary" if space.rotary else ""
            order = ", heads in one order through all layers" if space.order else ""
            order = ", heads keep their places" if space.head_position_fixed else order
            return f"{space.size} = {space.heads} heads{groups} × {space.head_dim} channels{rotary}{order}"
        case Kind.EXPERTS:
            return f"{space.size} experts"
        case Kind.EMBEDDING:
            return f"{space.size} of the embedding"
    return f"{space.size} in each of {space.copies} experts" if space.copies > 1 else str(space.size)

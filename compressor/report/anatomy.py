"""Anatomies and plans for a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from compressor.report.curve import render_curve
from compressor.report.describe import Report, describe_budget, describe_kernels
from compressor.report.tables import plain_table
from compressor.utils.out_of_memory import format_bytes

if TYPE_CHECKING:
    from compressor.anatomy import Anatomy, Axis, Space


def render_anatomy(name: str, anatomy: Anatomy) -> list[RenderableType]:
    """Spaces, axes by parameter, and the certificate."""
    # Imported here: this needs torch and transformers, plans do not.
    from compressor.anatomy import CERTIFICATE_TOLERANCE

    collapse = _collapser(anatomy.layers)
    axes = plain_table("parameter", "axes (→ writes a space, ← reads one)")
    for pattern, count, described in _patterns(anatomy, collapse):
        axes.add_row(Text(pattern if count == 1 else f"{pattern}  ×{count}"), Text(described))
    spaces = plain_table("space", "coordinates")
    counted: dict[str, tuple[Space, int]] = {}
    for space in anatomy.spaces.values():
        first, count = counted.get(collapse(space.name), (space, 0))
        counted[collapse(space.name)] = (first, count + 1)
    for pattern, (space, count) in counted.items():
        spaces.add_row(Text(pattern if count == 1 else f"{pattern}  ×{count}"), Text(_coordinates(space)))
    sizes = ", ".join(f"{field} ({meaning})" for field, meaning in anatomy.fields.items())
    output = "the logits" if anatomy.output is None else "its output"
    verdict = "holds" if anatomy.error <= CERTIFICATE_TOLERANCE else "does NOT hold"
    return [
        f"{name}: {anatomy.model_class}, {_layers(anatomy)}",
        spaces,
        axes,
        f"config fields: {sizes}",
        *_residuals(anatomy),
        f"certificate {verdict}: permuting every space changes {output} "
        f"by at most {anatomy.error:.1e} relative (at most {CERTIFICATE_TOLERANCE:.0e} is allowed)",
        *_coverage(anatomy),
    ]


def _coverage(anatomy: Anatomy) -> list[str]:
    """What the certificate exercises, and what it leaves as it is."""
    weakest = min(anatomy.sensitivity.values(), default=None)
    wrong = "" if weakest is None else f"; a wrong map of any space changes them by at least {weakest:.1e}"
    lines = [f"proven: {anatomy.proven:.1%} of the parameters take part{wrong}"]
    if anatomy.idle:
        lines.append(f"idle, because no input of this class reaches them: {', '.join(anatomy.idle)}")
    lines += [f"pinned: {name} ({why})" for name, why in anatomy.pinned.items()]
    return lines


def render_plan(plan: Report) -> list[RenderableType]:
    """Costs, and the student's shape."""
    costs = plain_table("model", "params (M)", "GMACs", "MB", numbers=3)
    for row in (*plan["teachers"], plan["student"]):
        costs.add_row(
            Text(row["name"]), f"{row['parameters'] / 1e6:.3f}", f"{row['macs'] / 1e9:.4f}", f"{row['bytes'] / 1e6:.2f}"
        )
    target, student = plan["target"], plan["student"]
    largest = max(plan["teachers"], key=lambda row: row["parameters"])
    shapes = plain_table("config field", "teacher", "student", numbers=2)
    for field, sizes in target["fields"].items():
        shapes.add_row(field, str(sizes["teacher"]), str(sizes["student"]))
    tokens = f" (MACs at {plan['length']} tokens)" if plan["length"] else ""
    return [
        costs,
        shapes,
        *(_alternative(target, other) for other in plan["others"]),
        *_times(plan),
        *([f"runs fast in: {describe_kernels(kernels)}"] if (kernels := plan.get("runs_fast_in")) else []),
        *(describe_budget(plan["budget"]) if plan.get("budget") else []),
        *(render_curve(plan["curve"]) if plan.get("curve") else []),
        f"width: {target['asked_width']:.4g} {'picked' if plan.get('budget') else 'asked'}, "
        f"{target['given_width']:.4g} given; the student has "
        f"{student['parameters'] / largest['parameters']:.1%} of the largest teacher's parameters and "
        f"{student['macs'] / largest['macs']:.1%} of its MACs{tokens}",
        *_memory(plan.get("memory")),
        f"certificate: {plan['certificate']:.1e}" + ("" if plan.get("curve") else " (no weights were read)"),
    ]


def _alternative(target: Report, alternative: Report) -> str:
    both = (target["fields"], alternative["fields"])
    # A field that one of them lacks keeps the teacher's size.
    sizes = {
        field: [fields.get(field, size)["student" if field in fields else "teacher"] for fields in both]
        for field, size in {**both[0], **both[1]}.items()
    }
    differing = [f"{field} {other_size}" for field, (size, other_size) in sizes.items() if size != other_size]
    return f"or with {alternative['narrowing'].replace('-', ' ')} if held-out samples prefer it: {', '.join(differing)}"


def _times(plan: Report) -> list[str]:
    """Times of the shapes, from their sizes."""
    times = plan.get("relative_times") or []
    shown = ", ".join(f"{time:.2f}" for time in times)
    return [f"times of these shapes, the fastest being 1, from their sizes (--prefer): {shown}"] if times else []


def _memory(memory: Report | None) -> list[str]:
    """Needed and free memory."""
    if memory is None:
        return []
    limits = "".join(f" ({name} allows {format_bytes(size)})" for name, size in memory["limits"].items())
    free = "" if memory["free"] is None else f", and {format_bytes(memory['free'])} are free{limits}"
    too_little = memory["free"] is not None and memory["free"] < memory["least"]
    ending = ": too little" if too_little else ""
    streamed = memory["streamed"]
    return [
        f"memory: a fusion holds {format_bytes(memory['least'])} at least{free}{ending}",
        f"layer by layer (--max-memory) it holds {format_bytes(streamed['fixed'])}, and "
        f"{format_bytes(streamed['per_token'])} a token of calibration as the limit allows: the rest lies on disk",
        *_streamed_work(streamed),
    ]


def _streamed_work(streamed: Report) -> list[str]:
    """Time and disk of a fusion layer by layer."""
    if "seconds" not in streamed:
        return []
    # Hours, minutes, seconds.
    time = timedelta(seconds=max(1, round(streamed["seconds"])))
    return [
        f"with {streamed['tokens']:,} tokens of calibration these are {format_bytes(streamed['hidden'])}; the "
        f"student's layers are {format_bytes(streamed['student'])} on disk; about {time} on this machine if nothing "
        "else runs"
    ]


def _collapser(layers: Sequence[str]) -> Callable[[str], str]:
    """A function that replaces a layer's index by a star."""
    prefixes = {layer.rpartition(".")[0] for layer in layers}
    pattern = re.compile(rf"({'|'.join(re.escape(prefix) for prefix in prefixes)})\.\d+") if prefixes else None
    return lambda name: pattern.sub(r"\1.*", name) if pattern else name


def _patterns(anatomy: Anatomy, collapse: Callable[[str], str]) -> list[tuple[str, int, str]]:
    """(pattern, number of parameters, axes)."""
    counts: dict[tuple[str, str], int] = {}
    for name, axes in anatomy.axes.items():
        key = (collapse(name), " · ".join(_axis(axis, collapse) for axis in axes))
        counts[key] = counts.get(key, 0) + 1
    return [(pattern, count, described) for (pattern, described), count in counts.items()]


def _axis(axis: Axis, collapse: Callable[[str], str]) -> str:
    if axis.fixed:
        return str(axis.size)
    arrow = "→" if axis.side == "write" else "←"
    parts = [f"{part.size} {_short(collapse(part.key))}" if part.key else f"{part.size}" for part in axis.parts]
    joined = parts[0] if len(parts) == 1 else f"[{' | '.join(parts)}]"
    return f"{arrow} {joined}" + (f" in {axis.interleave} turns" if axis.interleave > 1 else "")


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _layers(anatomy: Anatomy) -> str:
    counts = " + ".join(str(len(stack.layers)) for stack in anatomy.stacks)
    runs = max((stack.runs for stack in anatomy.stacks), default=1)
    return f"{counts} layer{'' if counts == '1' else 's'}" + (f", run {runs} times" if runs > 1 else "")


def _residuals(anatomy: Anatomy) -> list[str]:
    several = len(anatomy.residuals) > 1
    return [
        (f"{space.name}: " if several else "")
        + f"norms can be folded into their readers: {'yes' if anatomy.rotatable(space.name) else 'no'}; "
        + f"writers of the residual stream can be centred: {'yes' if space.name in anatomy.centred else 'no'}"
        for space in anatomy.residuals
    ]


def _coordinates(space: Space) -> str:
    from compressor.anatomy import Kind

    match space.kind:
        case Kind.ATTENTION:
            groups = f" in {space.groups} key–value groups" if space.groups != space.heads else ""
            rotary = (", rotary" if space.rotary else "") + (
                "" if space.mixable else ", each with its own gate or scale"
            )
            order = ", one order of heads in all layers" if space.order else ""
            order = ", heads have fixed positions" if space.head_position_fixed else order
            return f"{space.size} = {space.heads} heads{groups} × {space.head_dim} channels{rotary}{order}"
        case Kind.EXPERTS:
            return f"{space.size} experts"
        case Kind.EMBEDDING:
            return f"{space.size} of the embedding"
    return f"{space.size} in each of {space.copies} experts" if space.copies > 1 else str(space.size)

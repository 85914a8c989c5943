"""Exported formats of a report as text."""

from __future__ import annotations

from compressor.bench.metrics import format_precise, main_metric
from compressor.report.describe import Report


def describe_export(export: Report) -> list[str]:
    """Exported files, and parity with torch."""
    lines = []
    for name, exported in export["formats"].items():
        for file, written in exported["files"].items():
            lines.append(f"wrote {export['folder']}/{file} ({name}, {written['bytes'] / 1e6:.2f} MB)")
        lines.append(describe_parity(name, exported))
    for name, left in (export.get("left") or {}).items():
        files = " and ".join(f"{export['folder']}/{file}" for file in left["files"])
        verb = "is" if len(left["files"]) == 1 else "are"
        lines.append(
            f"left {files} ({name}), which {verb} of this model: {left['difference']:.1e} from torch on random inputs; "
            "--force writes it anew"
        )
    if export["report_updated"]:
        lines.append(f"updated {export['folder']}/report.json")
    return lines


def describe_parity(name: str, exported: Report) -> str:
    """A format's difference from torch, and its score if approximate."""
    if exported["exact"]:
        difference = exported["largest_relative_difference"]
        return f"{name}: largest difference from torch {difference:.1e} of the largest value"
    data = exported["evaluation"]
    where, figures = ("random inputs", exported) if data is None else (f"{data['samples']} samples", data)
    size = sum(file["bytes"] for file in (exported.get("files") or {}).values())
    parts = [f"{size / 1e6:.2f} MB"] if size else []
    parts.append(f"relative error of the logits {figures['relative_error']:.1e}")
    if figures["agreement"] is not None:
        parts.append(f"{100 * figures['agreement']:.2f} % of the predictions are torch's")
    if data is not None and (metric := main_metric(data)) is not None:
        deployed, in_float = (format_precise(metric, score[metric.name]) for score in (data, data["float"]))
        parts.append(f"{metric.title} {deployed} (float: {in_float})")
    proof = f"; {describe_half(half)}" if (half := exported.get("float16")) else ""
    return f"{name}: {', '.join(parts)}, on {where}{proof}"


def describe_half(half: Report) -> str:
    """How a float16 file was proven."""
    samples = f"{half['samples']} samples and random inputs" if half["samples"] else "random inputs, without samples"
    count = sum(half["operations_in_float32"].values())
    kept = ", ".join(f"{number} {name}" for name, number in half["operations_in_float32"].items())
    return (
        f"computed with every result rounded to float16; largest value {half['largest_value']:.3g}, of those in "
        f"float16 {half['largest_value_in_float16']:.3g} (limit {half['limit']:.0f} over {half['room']:g} for room), "
        f"on {samples}; {count} of {half['operations']} operations stay in float32{f' ({kept})' if kept else ''}"
    )

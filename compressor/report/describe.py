"""Parts of a report as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.bench.metrics import METRICS, MISSING
from compressor.bench.rows import KL_TITLE, RESULT_MARK, Row, format_count, format_threads

#: The content of a report.json, or a section of it.
Report = Mapping[str, Any]

_MEASURES = {
    "held_out_kl": "held-out KL",
    "held_out_kl_and_worst": "held-out KL, mean of all samples' and the worst-served part's",
    "held_out_error": "held-out error",
    "random_inputs_kl": "KL on random inputs",
    "random_inputs_kl_and_worst": "KL on random inputs, mean of all inputs' and the worst-served part's",
    "random_inputs_error": "error on random inputs",
}
_METRIC_NOTES = {
    name: f"a lower {metric.title} is better" if metric.lower else "± is one standard error"
    for name, metric in METRICS.items()
    if name != "f1"
}


def measure_of(candidates: Sequence[Report]) -> str:
    """The key of their measure, such as held_out_kl."""
    return next(key for key in candidates[0] if key != "candidate")


def format_measure(value: float | None) -> str:
    """A candidate's measure; None means not finite."""
    return MISSING if value is None else f"{value:.4g}"


def describe_shapes(shapes: Sequence[Report]) -> str:
    """Attention shapes tried, with errors."""
    measure = measure_of(shapes)
    timed = all("relative_time" in shape for shape in shapes)
    errors = "; ".join(
        f"{shape['candidate']} {format_measure(shape[measure])}"
        + (f" at {shape['relative_time']:.2f} of the fastest shape's time" if timed else "")
        for shape in shapes
    )
    return f"{errors} ({_MEASURES.get(measure, measure)})"


def describe_kernels(runs_fast_in: Report) -> str:
    """Kernels that take a student's sizes, and why others do not."""
    fast = [name for name, reason in runs_fast_in.items() if not reason]
    slow = [f"{name} ({reason})" for name, reason in runs_fast_in.items() if reason]
    return ", ".join(fast or ["none of those known"]) + (f"; not in {', '.join(slow)}" if slow else "")


def describe_head(head: Report) -> str:
    """The head's fit, and gain over least squares."""
    return (
        f"{head['module']}, fitted to the ensemble's probabilities: held-out KL {head['kl']:.4g}, "
        f"{head['least_squares_kl']:.4g} by least squares"
    )


def describe_last_layer(last_layer: Report) -> str:
    """The fit of the last layer, or of all after the layers, and its gain."""
    head = " and the head" if last_layer.get("layer", True) else ""
    return (
        f"{last_layer['module']}{head}, fitted to the ensemble's predictions: held-out KL "
        f"{last_layer['after']:.4g}, {last_layer['before']:.4g} before"
    )


def describe_reconstruction(fusion: Report) -> str:
    """Gains of layer-wise reconstruction."""
    layers: Sequence[Report] = fusion["polished"]
    if not layers:
        return fusion.get("unpolished") or "no gain on held-out samples in any layer"
    gains = sorted(1 - layer["after"] / layer["before"] for layer in layers)
    span = f"{gains[0]:.0%}" if len(gains) == 1 else f"{gains[0]:.0%} to {gains[-1]:.0%}"
    count = "1 layer" if len(gains) == 1 else f"{len(gains)} layers"
    return f"{count}: {span} less held-out error than the linear refit alone"


def describe_finetune(finetune: Report) -> list[str]:
    """Losses in addition, validation and learning-rate search."""
    losses = finetune.get("losses") or {}
    return [
        *([f"losses in addition: {', '.join(f'{name} {weight:g}' for name, weight in losses.items())}"] * bool(losses)),
        *([describe_validation(finetune)] if finetune.get("best_step") is not None else []),
        *([describe_search(finetune)] if finetune.get("search") else []),
    ]


def describe_temperature(finetune: Report) -> str:
    """The temperature; "" in older reports."""
    temperature = finetune.get("temperature")
    return "" if temperature is None else f" and temperature {temperature:g}"


def describe_validation(finetune: Report) -> str:
    """The validated step that was kept."""
    loss = dict(map(tuple, finetune["judged"]))[finetune["best_step"]]
    return (
        f"weights of step {finetune['best_step']}, the best of {len(finetune['judged'])} evaluations "
        f"(loss {loss:.4f} on {finetune['validation_samples']} held-out training samples)"
    )


def describe_search(finetune: Report) -> str:
    """Learning rates of a search; others to try if the best is an extreme."""
    trials = [
        f"{trial['learning_rate']:g} ("
        + ("diverged)" if trial["validation_loss"] is None else f"loss {trial['validation_loss']:.4g})")
        for trial in finetune["search"]
    ]
    count = finetune["validation_samples"]
    return (
        f"learning rate {finetune['learning_rate']:g} is the best of {', '.join(trials)} "
        f"on {count} held-out training {'sample' if count == 1 else 'samples'}{_further_rates(finetune)}"
    )


def _further_rates(finetune: Report) -> str:
    rates = [trial["learning_rate"] for trial in finetune["search"]]
    best = finetune["learning_rate"]
    if len(set(rates)) < 2 or best not in (min(rates), max(rates)):
        return ""
    extreme, further = ("highest", 3 * best) if best == max(rates) else ("lowest", best / 3)
    return f"; it is the {extreme} one: --learning-rates {best:g},{further:.1g} shows whether to go further"


def describe_legend(rows: Sequence[Row], result: bool, tails: bool) -> str:
    """The signs of a table of results, in one line; "" without any."""
    errors = ("kl_error", *(f"{name}_error" for name in METRICS))
    parts = [
        *([f"{RESULT_MARK}the result"] if result else []),
        *(["± a standard error"] if any(row.score(name) is not None for row in rows for name in errors) else []),
        *([KL_TITLE] if any(row.kl is not None for row in rows) else []),
        *([f"ms: p50{' / p95' if tails else ''}"] if any(row.torch_p50_ms or row.ort_p50_ms for row in rows) else []),
    ]
    return "; ".join(parts)


def describe_evaluation(report: Report) -> list[str]:
    """Evaluation data and its size."""
    if (evaluation := report.get("evaluation")) is None:
        return []
    several = "pixels" if report.get("task") == "semantic-segmentation" else "tokens"
    unit = "labels" if evaluation["labelled"] <= evaluation["samples"] else several
    samples = f"{evaluation['samples']} samples, {evaluation['labelled']} {unit}"
    return [f"measured on {evaluation['data']}: {samples}"]


def describe_macs(report: Report) -> list[str]:
    """Text length for multiply–accumulates."""
    return [f"GMACs are for {report['length']} tokens"] if report.get("length") else []


def describe_timing(latency: Report) -> str:
    """Settings of the latency measurement."""
    first = next(iter(latency["models"].values()))["torch"]
    tokens = f" × {latency['length']} tokens" if latency.get("length") else ""
    calls = [backend["iterations"] for model in latency["models"].values() for backend in model.values() if backend]
    return (
        f"latency: p50 / p95 of batches of {latency['batch_size']}{tokens} with {format_threads(first['threads'])}, at "
        f"least {latency['seconds']:g} s and {min(calls)} calls each, in turns; {latency['shared']}"
    )


def describe_data(evaluated: Report) -> str:
    """Evaluation data, and notes on metrics."""
    rows = evaluated["rows"]
    notes = [note for metric, note in _METRIC_NOTES.items() if any(row.get(metric) is not None for row in rows)]
    notes = list(dict.fromkeys(notes))
    return "; ".join([f"measured on {evaluated['data']}", *notes])


def describe_budget(budget: Report) -> list[str]:
    """Requested cost and chosen width's."""
    lines = []
    requested, actual = budget["asked"], budget["given"]
    for key, name in (("params", "parameters"), ("flops", "MACs")):
        if key in requested:
            limit = requested[key]
            amount = f"{limit:g} of the widest teacher's" if limit <= 1 else format_count(limit)
            lines.append(f"target: {amount} {name} asked; the nearest width has {format_count(actual[key])}")
    if "latency" in requested:
        settings = budget["latency"]
        tokens = f" × {settings['length']} tokens" if settings["length"] else ""
        lines.append(
            f"latency: at most {requested['latency']:g} ms asked; measured {actual['p50_ms']:.3g} ms (p50 of batches "
            f"of {settings['batch_size']}{tokens} in {settings['backend']}, {format_threads(settings['threads'])}, "
            "random weights)"
        )
        widths = [f"{size['width']:.4g} ({size['p50_ms']:.3g} ms)" for size in budget["looked_at"] if "p50_ms" in size]
        lines.append(f"widths tried: {', '.join(widths)}")
    return lines


def describe_bench(bench: Report) -> list[str]:
    """Settings of `compress bench`."""
    settings, machine = bench["settings"], bench["environment"]
    calls, warmups = (min(row[key] for row in bench["results"]) for key in ("iterations", "warmups"))
    first = bench["results"][0]
    tokens = "" if first["length"] is None else f" × {first['length']} tokens"
    macs = "" if first["length"] is None else f"GMACs for {first['length']} tokens, "
    return [
        *([f"first table: {macs}p50 / p95 of batches of {first['batch_size']}{tokens}"] if bench["table"] else []),
        f"one process per model with {format_threads(settings['threads'])}, in turns: at least "
        f"{settings['seconds']:g} s and {calls} calls after {warmups} or more warm-ups",
        "× 1st: how many times as fast as the first model, by p50; first: the first call; load: from the file to a "
        "model that can be called; all in ms; peak: memory of the whole process",
        *_describe_energy(bench["results"]),
        f"on {machine['cpu']}, torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}",
    ]


def _describe_energy(results: Sequence[Report]) -> list[str]:
    """Where the joules of the table are from, or that there are none; nothing of a result of an earlier version."""
    if all("joules" not in row for row in results):
        return []
    if all(row.get("joules") is None for row in results):
        return ["energy: not measured, this machine lets no counter be read (/sys/class/powercap)"]
    return ["mJ: of a call, of the processor's packages with all that runs on them"]


def describe_comparison(comparison: Report, paths: Sequence[str]) -> list[str]:
    """Notes on two bench results."""
    lines = ["A / B: how many times as fast B is, by p50"]
    if any(row["within_spread"] for row in comparison["rows"]):
        lines.append("≈: within the spread, as medians of turns of A and B overlap: no difference was measured")
    if any(row["within_spread"] is None for row in comparison["rows"]):
        lines.append("the spread of a former version's result is not known: measure it again to see what is noise")
    lines += [
        f"only in {path}: {', '.join(rows)}" for path, rows in zip(paths, comparison["only"], strict=True) if rows
    ]
    return [*lines, *(f"note: {note}" for note in comparison["notes"])]

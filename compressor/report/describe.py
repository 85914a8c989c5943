"""Parts of a report as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.bench.metrics import METRICS, MISSING, format_precise, main_metric
from compressor.bench.rows import KL_TITLE, RESULT_MARK, Row, format_count, format_threads
from compressor.report.findings import is_within_noise

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
    """The last layer's fit, and gain over its reconstruction."""
    return (
        f"{last_layer['module']} and the head, fitted to the ensemble's predictions: held-out KL "
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


def describe_outcome(report: Report) -> str:
    """Size, score and speed."""
    rows = report["table"]
    teachers = rows[: len(report["recipe"]["teachers"])]
    student = rows[-1]
    largest = max(teachers, key=lambda row: row["parameters"])
    share = student["parameters"] / largest["parameters"]
    parts = [
        f"{student['parameters'] / 1e6:.3g} M parameters ({share:.0%} of a teacher's)",
        *_score_against(student, teachers),
    ]
    parts += [ratios] if (ratios := _speed_ups(student, largest)) else []
    return f"student ({student['name']}): {', '.join(parts)}"


def _score_against(student: Report, teachers: Sequence[Report]) -> list[str]:
    """The student's score, compared with its best teacher's."""
    name = {1: "the teacher", 2: "the better teacher"}.get(len(teachers), "the best teacher")
    metric = main_metric(student, *teachers)
    if metric is None:
        return []
    best = metric.best(teachers, key=lambda row: row[metric.name])
    figure = metric.format(student[metric.name], student.get(f"{metric.name}_error"))
    score = f"{figure} {metric.title}" if metric.percent else f"{metric.title} {figure}"
    if best[metric.name] <= 0:
        ratio = f"{name} has {metric.format(best[metric.name])}"
    elif metric.lower:
        ratio = f"{student[metric.name] / best[metric.name]:.3g} times {name}'s; lower is better"
    else:
        ratio = f"{student[metric.name] / best[metric.name]:.1%} of {name}'s"
    return [
        f"{score} (level with {name}, within noise: {ratio})"
        if is_within_noise(student, best, metric.name)
        else f"{score} ({ratio})"
    ]


def _speed_ups(student: Report, teacher: Report) -> str:
    """How many times as fast the student is in each backend; "" if not measured."""
    ratios = [
        (teacher[f"{backend}_p50_ms"] / student[f"{backend}_p50_ms"], name)
        for backend, name in (("torch", "torch"), ("ort", "ONNX Runtime"))
        if student[f"{backend}_p50_ms"] and teacher[f"{backend}_p50_ms"]
    ]
    parts = [
        f"{ratio:.1f} times {'' if index else 'as fast as a teacher '}in {name}"
        for index, (ratio, name) in enumerate(ratios)
    ]
    return " and ".join(parts)


def describe_legend(rows: Sequence[Row], result: bool, tails: bool) -> str:
    """The signs of a table of results, in one line; "" without any."""
    errors = ("kl_error", *(f"{name}_error" for name in METRICS))
    parts = [
        *([f"{RESULT_MARK}the result"] if result else []),
        *(["± a standard error"] if any(getattr(row, name) is not None for row in rows for name in errors) else []),
        *([KL_TITLE] if any(row.kl is not None for row in rows) else []),
        *([f"ms: p50{' / p95' if tails else ''}"] if any(row.torch_p50_ms or row.ort_p50_ms for row in rows) else []),
    ]
    return "; ".join(parts)


def describe_evaluation(report: Report) -> list[str]:
    """Evaluation data and its size."""
    if (evaluation := report.get("evaluation")) is None:
        return []
    unit = "labels" if evaluation["labelled"] <= evaluation["samples"] else "tokens"
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
        "first: the first call; load: from the file to a model that can be called; all in ms; peak: memory of the "
        "whole process",
        f"on {machine['cpu']}, torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}",
    ]


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

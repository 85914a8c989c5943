"""Accuracy, size and latency of a student in float, int8 and float16, and of other ways to quantise it.

    python -m benchmarks.deploy STUDENT --data DATA --name NAME

Writes benchmarks/results/deploy/NAME.json and .md.  Every file is measured on all evaluation samples; latency is of
a process for each, in turns, as in `compress bench`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from onnxruntime.quantization import QuantType, quantize_static
from torch import Tensor

from compressor.bench.accuracy import measure_deployed
from compressor.bench.metrics import METRICS, Metric, format_precise, main_metric
from compressor.bench.subprocesses import TimingJob, WorkerError, measure_isolated
from compressor.export import quantise
from compressor.export.formats import EXPORT_FORMATS
from compressor.export.parity_cases import MODEL, logits_of_files
from compressor.export.runtime import Session
from compressor.export.write import write_formats
from compressor.models.load import load_teacher
from compressor.models.modalities import is_image_config
from compressor.pipeline.data_splits import open_data
from compressor.pipeline.environment import environment
from compressor.recipe import ExportOptions, Int8Options, build_recipe

RESULTS = Path(__file__).parents[1] / "results" / "deploy"

Batches = Sequence[Mapping[str, Tensor]]
Way = Callable[[Path, Path], None]


def main(
    student: Annotated[str, typer.Argument(help="Folder of the student.")],
    data: Annotated[str, typer.Option(help="Its data.")],
    name: Annotated[str, typer.Option(help="What the results are called.")],
    samples: Annotated[int, typer.Option(help="Calibration samples.")] = 512,
    seconds: Annotated[float, typer.Option(help="Least measuring time of each file and batch size.")] = 10.0,
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime.")] = 1,
) -> None:
    """Measure one student."""
    recipe = build_recipe(
        {
            "teachers": [student],
            "data": {"source": data},
            "calibration": {"samples": samples, "batch_size": 64},
            "evaluation": {"samples": None},
        }
    )
    loaded = load_teacher(student)
    found = open_data(recipe, loaded.processor, loaded.spec)
    assert found.evaluation is not None
    with tempfile.TemporaryDirectory() as scratch:
        # For texts int8 is dynamic, and there are no convolutions for uint8.
        images = ("onnx-int8-dynamic", "onnx-uint8") if is_image_config(loaded.config) else ()
        names = ("onnx", "onnx-int8", *images, "onnx-int4", "onnx-fp16", "safetensors-bf16", "safetensors-fp16")
        options = ExportOptions(formats=names)
        written = write_formats(names, loaded.model, scratch, options, calibration=found.calibration)
        files = {one: made.report.path for one, made in written.items()}
        for way, write in ways(is_image_config(loaded.config), found.calibration).items():
            files[way] = Path(scratch, f"{way}.onnx")
            write(files["onnx"], files[way])
        opened = {one: made.files for one, made in written.items()}
        opened |= {one: {MODEL: Session(path)} for one, path in files.items() if one not in opened}
        answers = {one: partial(logits_of_files, each, loaded.spec.task) for one, each in opened.items()}
        own, scores = measure_deployed(loaded.model, answers, found.evaluation)
        timed = {one: files[one] for one in names if files[one].suffix == ".onnx"}
        times = latencies(timed, loaded.config.to_dict(), seconds, threads)
        rows = [
            {
                "name": one,
                "bytes": path.stat().st_size,
                **{metric: getattr(scores[one].score, metric, None) for metric in METRICS},
                "kl": scores[one].score.kl,
                "agreement": scores[one].agreement,
                "relative_error": scores[one].error,
                "latency": times.get(one),
            }
            for one, path in files.items()
        ]
    result = {
        "student": name,
        "command": f"python -m benchmarks.deploy STUDENT --data DATA --name {name} --samples {samples} "
        f"--seconds {seconds:g} --threads {threads}",
        "torch": {metric: getattr(own, metric, None) for metric in METRICS},
        "error": next(error for metric in METRICS if (error := getattr(own, f"{metric}_error", None)) is not None),
        "samples": own.samples,
        "rows": rows,
        "formats": {one: EXPORT_FORMATS.get(one).meaning for one in names},
        "environment": environment(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(page(result, threads), encoding="utf-8")
    typer.echo(page(result, threads))


def ways(images: bool, calibration: Batches) -> dict[str, Way]:
    """Other ways to quantise, by name: each differs from the default in what its name says."""
    changes: dict[str, dict[str, Any]] = {
        "one scale a weight": {"per_channel": False},
        "seven bits": {"reduce_range": True},
    }
    if not images:
        return {name: _dynamic(Int8Options(**change)) for name, change in changes.items()}
    changes["percentile"] = {"calibration": "percentile"}
    found: dict[str, Way] = {name: _static(Int8Options(**change), calibration) for name, change in changes.items()}
    return {**found, "every operation": _everything(calibration)}


def _static(options: Int8Options, calibration: Batches) -> Way:
    return lambda source, path: quantise.write_static_int8(source, path, calibration, options)


def _dynamic(options: Int8Options) -> Way:
    return lambda source, path: quantise.write_dynamic_int8(source, path, options)


def _everything(calibration: Batches) -> Way:
    """ONNX Runtime's own choice of operations: norms, softmax, sums and attention's products too."""

    def write(source: Path, path: Path) -> None:
        plain, reader = quantise.without_inner_shapes(source), quantise.calibration_reader(source, calibration)
        with quantise.quantiser_errors_as_one_line(source, "quantise"):
            quantize_static(plain, path, reader, per_channel=True, weight_type=QuantType.QInt8)

    return write


def latencies(
    files: Mapping[str, Path], config: Mapping[str, Any], seconds: float, threads: int
) -> dict[str, dict[str, Any]]:
    """Latency at batches of 1 and 32 (texts of 64 tokens), by the file's name."""
    about = {key: config[key] for key in ("vocab_size", "image_size", "num_channels") if key in config}
    found: dict[str, dict[str, Any]] = {name: {} for name in files}
    for batch in (1, 32):
        jobs = [TimingJob("onnx", str(path), batch, 64, threads, config=about) for path in files.values()]
        for name, one in zip(files, measure_isolated(jobs, seconds=seconds), strict=True):
            if isinstance(one, WorkerError):
                raise one
            found[name][str(batch)] = asdict(one)
    return found


def page(result: Mapping[str, Any], threads: int) -> str:
    """The result as Markdown."""
    machine = result["environment"]
    metric = main_metric(result["torch"])
    assert metric is not None
    lines = [
        f"# {result['student']}: formats",
        "",
        f"{metric.label.capitalize()} in torch {metric.format(result['torch'][metric.name], result['error'])} on "
        f"{result['samples']} samples. Same answers and relative error of the logits are of the same samples, beside "
        "torch in float32.",
        "",
        f"| file | size | {metric.title} | same answers | relative error | p50, batch 1 | p50, batch 32 | memory |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    shown = [row for row in result["rows"] if row["name"] in result["formats"]]
    for row in shown:
        cells = ["–", "–", "–"]
        if row["latency"]:
            one, many = (row["latency"][batch] for batch in ("1", "32"))
            cells = [f"{each['p50_ms']:.2f} ms" for each in (one, many)] + [f"{many['peak_memory_bytes'] / 1e6:.0f} MB"]
        lines.append(f"| {row['name']} {_cells(row, metric)} | {' | '.join(cells)} |")
    lines += [
        "",
        "Other ways to quantise to int8, each changing one thing:",
        "",
        f"| way | size | {metric.title} | same answers | relative error |",
        "| :-- | --: | --: | --: | --: |",
    ]
    lines += [f"| {row['name']} {_cells(row, metric)} |" for row in result["rows"] if row not in shown]
    versions = ", ".join(f"{key} {machine[key]}" for key in ("python", "torch", "transformers", "onnx", "onnxruntime"))
    timed = [row for row in shown if row["latency"]]
    least = min(row["latency"][batch]["iterations"] for row in timed for batch in ("1", "32"))
    lines += [
        "",
        f"Latency: ONNX Runtime, {threads} thread(s), a process each, in turns, {least} calls or more. "
        f"Made with `{result['command']}` on {machine['cpu']}; {versions}.",
        "",
    ]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any], metric: Metric) -> str:
    agreement = "–" if row["agreement"] is None else f"{100 * row['agreement']:.2f} %"
    return (
        f"| {row['bytes'] / 1e6:.2f} MB | {format_precise(metric, row[metric.name])} | {agreement} "
        f"| {row['relative_error']:.1e}"
    )


if __name__ == "__main__":
    typer.run(main)

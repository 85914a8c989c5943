"""`compress bench`: latency, memory and size of models, and comparisons of two results."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressor.bench.backends import BACKENDS
from compressor.bench.compare import check_result_file, compare_results, read_result, write_result
from compressor.cli import options as o
from compressor.cli.completion import complete_models
from compressor.cli.console import loading, print_json, print_note, print_notes, print_results, working
from compressor.cli.early_checks import check_inputs_early
from compressor.cli.parsing import split_counts, split_names
from compressor.errors import UserError
from compressor.recipe import Recipe
from compressor.utils.consent import code_trusted

if TYPE_CHECKING:
    from compressor.pipeline.bench import BenchSettings

_Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODELS]",
        help="Folders, built-in names (vit-a, vit-b), Hub ids or ONNX files.",
        autocompletion=complete_models,
    ),
]
_BatchSizes = Annotated[str, typer.Option("--batch-size", metavar="N,N,...", help="Samples per call.")]
_Lengths = Annotated[str, typer.Option("--length", metavar="N,N,...", help="Tokens of a text sample.")]
_Backends = Annotated[
    str, typer.Option("--backends", metavar="NAME,NAME,...", help=f"Among {', '.join(BACKENDS.names())}.")
]
_Seconds = Annotated[
    float, typer.Option("--seconds", min=0.01, help="Least measuring time per model, backend and shape.")
]
_Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE.json", help="Also write the result to a file.")
]
_Compare = Annotated[
    tuple[str, str] | None,
    typer.Option("--compare", metavar="A.json B.json", help="Measure nothing: compare two results."),
]


@o.takes_flags("--revision", "--trust-remote-code", *o.MACHINE)
def bench_command(
    *,
    models: _Models = None,
    batch_size: _BatchSizes = "32",
    length: _Lengths = "128",
    backends: _Backends = "torch,onnx",
    seconds: _Seconds = 10.0,
    no_onnx: Annotated[bool, typer.Option("--no-onnx", help="Time torch only.")] = False,
    given: o.Given,
    output: _Output = None,
    compare: _Compare = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure latency, memory, MACs and size of models on random inputs; no data is needed.

    Each model and backend runs in a process of its own, and they are timed in turns. ONNX Runtime runs the files of
    the folder onnx, or else temporary exports; ONNX files from elsewhere are taken too.

    Example: compress bench student ./teacher-a --batch-size 1,32 --backends torch,onnx,onnx-int8
    """
    if compare is not None:
        if models or output is not None:
            raise UserError("--compare measures nothing: give it two results, and neither models nor --output")
        _compare(compare, json, debug)
        return
    if not models:
        raise UserError("name a model to measure, or two results with --compare")
    recipe = o.to_recipe({"--teachers": tuple(models), **given})
    check_inputs_early(recipe)
    target = None if output is None else check_result_file(output, force)
    names = split_names(backends)
    with working(debug, quiet) as progress, code_trusted(recipe.trust_remote_code):
        with loading():
            from compressor.pipeline.bench import BenchSettings

        settings = BenchSettings(
            batch_sizes=split_counts("--batch-size", batch_size),
            lengths=split_counts("--length", length),
            backends=tuple(name for name in names if not (no_onnx and name.startswith("onnx"))),
            seconds=seconds,
            threads=recipe.threads,
            device=recipe.device,
        )
        result = _measure(recipe, settings, target, force, progress)
    _show(result, target, json)


def _measure(
    recipe: Recipe, settings: BenchSettings, target: Path | None, force: bool, progress: Any
) -> dict[str, Any]:
    """Measure the recipe's teachers, and write the result to `target` if there is one."""
    from compressor.pipeline.bench import bench_models
    from compressor.pipeline.output.apart import recipe_inputs
    from compressor.pipeline.output.claim import claimed

    with claimed(target, recipe_inputs(recipe, role="model"), remark=print_note) if target else nullcontext():
        result = bench_models(recipe.teachers, settings, progress=progress)
        if target is not None:
            check_result_file(str(target), force)
            write_result(target, result)
    return result


def _show(result: dict[str, Any], target: Path | None, json: bool) -> None:
    print_notes(result["notes"])
    if json:
        print_json(result)
        return
    from compressor.report.describe import describe_bench
    from compressor.report.summary import table_of
    from compressor.report.tables import latency_table

    table = [table_of(result)] if result["table"] else []
    print_results(*table, latency_table(result["results"]), *describe_bench(result))
    if target is not None:
        print_results(f"written to {target}; next: compress bench --compare {target} OTHER.json")


def _compare(files: tuple[str, str], json: bool, debug: bool) -> None:
    with working(debug, quiet=True):
        comparison = compare_results(*(read_result(path) for path in files))
    if json:
        print_json(comparison)
        return
    from compressor.report.describe import describe_comparison
    from compressor.report.tables import comparison_table

    print_results(comparison_table(comparison["rows"]), *describe_comparison(comparison, files))

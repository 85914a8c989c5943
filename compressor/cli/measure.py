"""The commands that measure and deliver: evaluate, bench, export."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from compressor.bench.backends import BACKENDS
from compressor.bench.compare import check_result_file, compare_results, read_result, write_result
from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_note, print_results, working
from compressor.cli.flags import split_counts, split_names, to_recipe
from compressor.errors import UserError


@o.takes_flags(*o.EVALUATION, "--device")
def evaluate_command(
    models: o.Models,
    *,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also measure the mean of the models' predictions, as the last row.")
    ] = False,
    given: o.Given,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure models on data: accuracy and F1 of classifiers and taggers, perplexity of language models.

    The models must read the same inputs and answer in the same terms. Built-in teachers bring their own data. An
    ensemble answers with the mean of the models' probabilities.

    Example: compress evaluate student ./teacher-a --data ./images --eval-samples all
    """
    recipe = to_recipe({"--teachers": tuple(models), **given})
    with working(debug) as progress:
        with loading():
            from compressor.pipeline import evaluate

        found = evaluate.evaluate_models(recipe, ensemble=ensemble, progress=progress)
    for note in found["notes"]:
        print_note(f"note: {note}")
    if json:
        print_json(found)
        return
    from compressor.report.describe import describe_data
    from compressor.report.tables import score_table

    print_results(score_table(found["rows"]), describe_data(found))


@o.takes_flags("--device")
def bench_command(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODELS]", help="Folders, built-in names (vit-a, vit-b), Hub ids or ONNX files."),
    ] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", metavar="N,N,...", help="Samples per call.")] = "32",
    length: Annotated[str, typer.Option("--length", metavar="N,N,...", help="Tokens of a text sample.")] = "128",
    backends: Annotated[
        str, typer.Option("--backends", metavar="NAME,NAME,...", help=f"Among {', '.join(BACKENDS.names())}.")
    ] = "torch,onnx",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, help="Least measuring time per model, backend and shape.")
    ] = 10.0,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Threads of torch and ONNX Runtime.", show_default="all cores"),
    ] = None,
    no_onnx: Annotated[bool, typer.Option("--no-onnx", help="Time torch only.")] = False,
    given: o.Given,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE.json", help="Also write the result to a file.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="A.json B.json", help="Measure nothing: compare two results."),
    ] = None,
    force: o.Force = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure latency, memory, MACs and size of models on random inputs; no data is needed.

    Each model and backend runs in a process of its own, and they are timed in turns. ONNX Runtime runs the files of
    the folder onnx, or else temporary exports; ONNX files that were made elsewhere are taken too.

    Example: compress bench student ./teacher-a --batch-size 1,32 --backends torch,onnx,onnx-int8
    """
    if compare is not None:
        if models or output is not None:
            raise UserError("--compare measures nothing: give it two results, and neither models nor --output")
        with working(debug):
            result = compare_results(*(read_result(path) for path in compare))
        if json:
            print_json(result)
            return
        from compressor.report.describe import describe_comparison
        from compressor.report.tables import comparison_table

        print_results(comparison_table(result["rows"]), *describe_comparison(result, compare))
        return
    if not models:
        raise UserError("name a model to measure, or two results with --compare")
    recipe = to_recipe({"--teachers": tuple(models), **given})
    target = None if output is None else check_result_file(output, force)
    chosen = split_names(backends)
    with working(debug) as progress:
        with loading():
            from compressor.pipeline.apart import recipe_inputs
            from compressor.pipeline.bench import BenchSettings
            from compressor.pipeline.bench import bench_models as measure
            from compressor.pipeline.claim import claimed

        settings = BenchSettings(
            batch_sizes=split_counts("--batch-size", batch_size),
            lengths=split_counts("--length", length),
            backends=tuple(name for name in chosen if not (no_onnx and name.startswith("onnx"))),
            seconds=seconds,
            threads=threads,
            device=recipe.device,
        )
        with claimed(target, recipe_inputs(recipe, role="model"), remark=print_note) if target else nullcontext():
            found = measure(recipe.teachers, settings, progress=progress)
            if target is not None:
                check_result_file(str(target), force)
                write_result(target, found)
    for note in found["notes"]:
        print_note(f"note: {note}")
    if json:
        print_json(found)
        return
    from compressor.report.describe import describe_bench
    from compressor.report.summary import table_of
    from compressor.report.tables import latency_table

    print_results(
        *([table_of(found)] if found["table"] else []), latency_table(found["results"]), *describe_bench(found)
    )
    if target is not None:
        print_results(f"written to {target}; next: compress bench --compare {target} OTHER.json")


@o.takes_flags("--formats", "--tolerance", *o.DATA, "--samples", "--eval-samples", "--seed")
def export_command(
    model: o.Model,
    *,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder to write into; the model's own if omitted.")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Also write files with past keys and values, to generate with.")
    ] = True,
    given: o.Given,
    force: o.Force = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Write a model in other formats and prove them against torch, over several batch sizes and lengths.

    ONNX files are onnx/model.onnx; for a language model also onnx/model_with_past.onnx; for an encoder–decoder an
    encoder and two decoders. int8 and float16 ones end with _int8, _int8_dynamic and _fp16; with --data their accuracy
    is measured beside the model's own. What was found goes into the folder's report.json, if it has one. Beyond the
    tolerance nothing is written.

    Example: compress export student --formats onnx,onnx-int8 --data ./images
    """
    recipe = to_recipe({"--teachers": (model,), "--no-cache": not cache, **given})
    with working(debug) as progress:
        with loading():
            from compressor.pipeline import export

        found = export.export_model(recipe, output, force=force, progress=progress, remark=print_note)
    if json:
        print_json(found)
        return
    from compressor.report.describe import describe_export

    print_results(*describe_export(found))

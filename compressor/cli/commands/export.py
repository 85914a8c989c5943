"""`compress export`: a model's files in other formats."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_note, print_results, working
from compressor.cli.early_checks import check_inputs_early
from compressor.utils.consent import code_trusted


@o.takes_flags(
    "--revision", "--trust-remote-code", "--formats", "--tolerance", "--opset", *o.DATA_FLAGS, "--samples",
    "--eval-samples", "--seed", "--threads",
)  # fmt: skip
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
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write a model in other formats and verify them against torch, over several batch sizes and lengths.

    ONNX files are onnx/model.onnx, of a language model with past keys and values; for an encoder–decoder an
    encoder and two decoders. int8 and float16 files end with _quantized, _int8_dynamic and _fp16; with --data their
    accuracy is compared with the model's own. The results go into the folder's report.json, if it has one. Beyond the
    tolerance nothing is written.

    Example: compress export student --formats onnx,onnx-int8 --data ./images
    """
    recipe = o.to_recipe({"--teachers": (model,), "--no-cache": not cache, **given})
    check_inputs_early(recipe)
    with working(debug, quiet) as progress, code_trusted(recipe.trust_remote_code):
        with loading():
            from compressor.pipeline.export import export_model

        export = export_model(recipe, output, force=force, progress=progress, remark=print_note)
    if json:
        print_json(export)
        return
    from compressor.report.describe_formats import describe_export

    print_results(*describe_export(export))

"""The commands that only look: plan, inspect, report."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_note, print_results, working
from compressor.cli.flags import to_recipe
from compressor.errors import UserError
from compressor.report.graph.svg import check_drawing_file, draw_svg, write_drawing


@o.takes_flags(*o.SHAPE, "--narrowing")
def plan_command(
    teachers: o.Teachers,
    given: o.Given,
    length: o.Length = 128,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show what a width and a depth give: shapes, parameters and MACs, before and after. No weights are read.

    Instead of a width, a target of parameters, MACs or latency picks one; latency is measured on random weights.

    Example: compress plan --width 0.5 ./teacher-a ./teacher-b
    """
    recipe = to_recipe({"--teachers": tuple(teachers), **given})
    with working(debug) as progress:
        with loading():
            from compressor.pipeline.plan import plan_student as make_plan

        found = make_plan(
            recipe.teachers,
            recipe.width,
            depth=recipe.depth,
            narrowing=recipe.fusion.narrowing,
            length=length,
            budget=recipe.target,
            progress=progress,
        )
    if json:
        print_json(found)
        return
    from compressor.report.anatomy import render_plan

    print_results(*render_plan(found))


def inspect_command(
    model: o.Model,
    graph: Annotated[
        str | None,
        typer.Option(
            "--graph", metavar="FILE.svg", help="Also draw the operations and the transportation maps between them."
        ),
    ] = None,
    force: o.Force = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show what is understood of an architecture, and the certificate that it is. No weights are read.

    Every axis of every parameter belongs to a space of interchangeable coordinates, or is fixed. The certificate is
    the proof: permuting every space at random leaves what the model puts out unchanged.

    Example: compress inspect vit-a --graph vit-a.svg
    """
    picture = None if graph is None else Path(graph).expanduser()
    if picture is None and force:
        raise UserError("--force replaces the file of --graph: give --graph too")
    with working(debug):
        if picture is not None:
            check_drawing_file(picture, force)
        with loading():
            from compressor.anatomy import inspect_config
            from compressor.models.resolve import load_config
            from compressor.pipeline.apart import model_inputs
            from compressor.pipeline.claim import claimed

        with claimed(picture, model_inputs([model]), remark=print_note) if picture else nullcontext():
            anatomy = inspect_config(load_config(model))
            if picture is not None:
                from compressor.report.graph.model_graph import build_graph

                # A folder's own name says enough.
                folder = Path(model).expanduser()
                name = folder.resolve().name if folder.is_dir() else model
                write_drawing(picture, draw_svg(build_graph(name, anatomy)), force)
    if json:
        found = asdict(anatomy) | {"centred": sorted(anatomy.centred)}
        drawn = {} if picture is None else {"graph": str(picture)}
        print_json({"model": model, **found, "error": anatomy.error, "canonical": anatomy.canonical, **drawn})
        return
    from compressor.report.anatomy import render_anatomy

    print_results(*render_anatomy(model, anatomy), *([] if picture is None else [f"flow graph: {picture}"]))


def report_command(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder that compress fuse, finetune or run has written.")
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Write the page of it, FOLDER/report.html, anew.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show again what a run measured and chose, from the report.json in its folder.

    Example: compress report student
    """
    if markdown + html + json > 1:
        raise UserError("--markdown, --html and --json exclude each other: give one of them")
    with working(debug):
        from compressor.pipeline.output import read_report

        page = _write_page(folder) if html else None
        found = read_report(folder)
    if page is not None:
        print_results(f"wrote {page}")
        return
    if json:
        print_json(found)
        return
    from compressor.report.summary import describe_choices, markdown_of, table_of

    if markdown:
        print_results(markdown_of(found))
    else:
        print_results(table_of(found), *describe_choices(found))


def _write_page(folder: str) -> Path:
    """Write the page of a folder's report anew, unless another run is writing there."""
    from compressor.pipeline.claim import claimed
    from compressor.pipeline.output import write_page

    with claimed(folder, (), remark=print_note):
        return write_page(folder)

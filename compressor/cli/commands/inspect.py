"""`compress inspect`: the certified anatomy of an architecture."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli import options as o
from compressor.cli.console import loading, print_json, print_note, print_results, working
from compressor.cli.early_checks import check_models_early
from compressor.errors import UserError
from compressor.report.graph.svg import check_drawing_file, draw_svg, write_drawing
from compressor.utils.consent import code_trusted

if TYPE_CHECKING:
    from compressor.anatomy import Anatomy

_Graph = Annotated[
    str | None,
    typer.Option("--graph", metavar="FILE.svg", help="Also draw the operations and the transport maps between them."),
]


def inspect_command(
    model: o.Model,
    graph: _Graph = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that lies in the model's folder (auto_map).")
    ] = False,
    force: o.Force = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show what is understood of an architecture, and the certificate that it is. No weights are read.

    Every axis of every parameter belongs to a space of interchangeable coordinates, or is fixed. The certificate is
    the proof: permuting every space at random leaves the model's output unchanged.

    Example: compress inspect vit-a --graph vit-a.svg
    """
    picture = None if graph is None else Path(graph).expanduser()
    if picture is None and force:
        raise UserError("--force replaces the file of --graph: give --graph too")
    if picture is not None:
        check_drawing_file(picture, force)
    check_models_early([model])
    with working(debug), code_trusted(trust_remote_code):
        with loading():
            from compressor.anatomy import inspect_config
            from compressor.models.resolve import load_config
            from compressor.pipeline.output.apart import model_inputs
            from compressor.pipeline.output.claim import claimed

        with claimed(picture, model_inputs([model]), remark=print_note) if picture else nullcontext():
            anatomy = inspect_config(load_config(model))
            if picture is not None:
                _draw(model, anatomy, picture, force)
    if json:
        values = asdict(anatomy) | {"centred": sorted(anatomy.centred)}
        drawing = {} if picture is None else {"graph": str(picture)}
        print_json({"model": model, **values, "error": anatomy.error, "canonical": anatomy.canonical, **drawing})
        return
    from compressor.report.anatomy import render_anatomy

    print_results(*render_anatomy(model, anatomy), *([] if picture is None else [f"flow graph: {picture}"]))


def _draw(model: str, anatomy: Anatomy, picture: Path, force: bool) -> None:
    """Draw the flow graph under the model's name, or the last part of its path."""
    from compressor.report.graph.model_graph import build_graph

    folder = Path(model).expanduser()
    name = folder.resolve().name if folder.is_dir() else model
    write_drawing(picture, draw_svg(build_graph(name, anatomy)), force)

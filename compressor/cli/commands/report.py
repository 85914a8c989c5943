"""`compress report`: the results of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.console import print_json, print_note, print_results, working
from compressor.errors import UserError


def report_command(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder that compress fuse, finetune or run has written.")
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Write its page, FOLDER/report.html, anew.")] = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show again what a run measured and chose, from the report.json in its folder.

    Example: compress report student
    """
    if markdown + html + json > 1:
        raise UserError("--markdown, --html and --json exclude each other: give one of them")
    with working(debug, quiet=True):
        from compressor.pipeline.output import read_report

        page = _write_page(folder) if html else None
        report = read_report(folder)
    if page is not None:
        print_results(f"wrote {page}")
        return
    if json:
        print_json(report)
        return
    from compressor.report.summary import describe_choices, markdown_of, table_of

    if markdown:
        print_results(markdown_of(report))
    else:
        print_results(table_of(report), *describe_choices(report))


def _write_page(folder: str) -> Path:
    """Write the folder's page anew, unless another process is writing there."""
    from compressor.pipeline.claim import claimed
    from compressor.pipeline.output import write_page

    with claimed(folder, (), remark=print_note):
        return write_page(folder)

"""`compress report`: the results of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli import options as o
from compressor.cli.completion import complete_folders
from compressor.cli.console import print_json, print_note, print_results, working
from compressor.errors import UserError


def report_command(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="A folder that compress fuse, finetune or run has written.",
            autocompletion=complete_folders,
        ),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Write its page, FOLDER/report.html, if it is missing.")] = False,
    force: o.Force = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show again what a run measured and chose, from the report.json in its folder.

    Example: compress report student
    """
    if markdown + html + json > 1:
        raise UserError("--markdown, --html and --json exclude each other: give one of them")
    if force and not html:
        raise UserError("--force replaces the page of --html: give --html too")
    with working(debug, quiet=True):
        from compressor.pipeline.output.documents import read_report

        line = _write_page(folder, force) if html else None
        report = read_report(folder)
    if line is not None:
        print_results(line)
        return
    if json:
        print_json(report)
        return
    from compressor.report.summary import describe_choices, markdown_of, table_of

    if markdown:
        print_results(markdown_of(report))
    else:
        print_results(table_of(report), *describe_choices(report))


def _write_page(folder: str, force: bool) -> str:
    """Write the folder's page, unless it is there or another process is writing; what was done."""
    from compressor.pipeline.output.claim import claimed
    from compressor.pipeline.output.documents import PAGE, read_report, write_page

    page = Path(folder).expanduser() / PAGE
    with claimed(folder, (), remark=print_note):
        if page.is_file() and not page.is_symlink() and not force:
            read_report(folder)
            return f"left {page}, which is there already; --force writes it anew"
        return f"wrote {write_page(folder)}"

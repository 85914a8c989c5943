"""The typer app: all commands, in a newcomer's order."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor.cli.commands.bench import bench_command
from compressor.cli.commands.doctor import doctor_command
from compressor.cli.commands.evaluate import evaluate_command
from compressor.cli.commands.export import export_command
from compressor.cli.commands.finetune import finetune_command
from compressor.cli.commands.fuse import fuse_command
from compressor.cli.commands.inspect import inspect_command
from compressor.cli.commands.interpolate import interpolate_command
from compressor.cli.commands.landscape import landscape_command
from compressor.cli.commands.plan import plan_command
from compressor.cli.commands.report import report_command
from compressor.cli.commands.run import recipe_command
from compressor.cli.help import JobCommand
from compressor.version import __version__

_MAKE, _LOOK, _MEASURE = "Make a student", "Look before and after", "Measure and deliver"


def _print_version(requested: bool) -> None:
    if requested:
        print(f"compress {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="compress",
    help="Fuse wide transformers into one narrow one, and measure the result.\n\n"
    "Try: compress fuse --width 0.5 vit-a vit-b\n\n"
    "That halves two small built-in vision transformers; nothing is downloaded.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _without_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command("fuse", cls=JobCommand, rich_help_panel=_MAKE)(fuse_command)
app.command("finetune", cls=JobCommand, rich_help_panel=_MAKE)(finetune_command)
app.command("run", cls=JobCommand, rich_help_panel=_MAKE)(recipe_command)
app.command("plan", cls=JobCommand, rich_help_panel=_LOOK)(plan_command)
app.command("inspect", cls=JobCommand, rich_help_panel=_LOOK)(inspect_command)
app.command("report", cls=JobCommand, rich_help_panel=_LOOK)(report_command)
app.command("doctor", cls=JobCommand, rich_help_panel=_LOOK)(doctor_command)
app.command("evaluate", cls=JobCommand, rich_help_panel=_MEASURE)(evaluate_command)
app.command("bench", cls=JobCommand, rich_help_panel=_MEASURE)(bench_command)
app.command("landscape", cls=JobCommand, rich_help_panel=_MEASURE)(landscape_command)
app.command("interpolate", cls=JobCommand, rich_help_panel=_MEASURE)(interpolate_command)
app.command("export", cls=JobCommand, rich_help_panel=_MEASURE)(export_command)

"""The typer app: which commands there are, in the order that a newcomer needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from compressor import __version__
from compressor.cli import doctor, landscape, look, make, measure


def _version(asked: bool) -> None:
    if asked:
        print(f"compress {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="compress",
    help="Fuse wide transformers into one narrow one, and prove what came out.\n\n"
    "Try: compress fuse --width 0.5 vit-a vit-b\n\n"
    "That halves two small built-in vision transformers; nothing is downloaded.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _begin(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


_MAKE, _LOOK, _MEASURE = "Make a student", "Look before and after", "Measure and deliver"
app.command("fuse", rich_help_panel=_MAKE)(make.fuse_command)
app.command("finetune", rich_help_panel=_MAKE)(make.finetune_command)
app.command("run", rich_help_panel=_MAKE)(make.recipe_command)
app.command("plan", rich_help_panel=_LOOK)(look.plan_command)
app.command("inspect", rich_help_panel=_LOOK)(look.inspect_command)
app.command("report", rich_help_panel=_LOOK)(look.report_command)
app.command("doctor", rich_help_panel=_LOOK)(doctor.doctor_command)
app.command("evaluate", rich_help_panel=_MEASURE)(measure.evaluate_command)
app.command("bench", rich_help_panel=_MEASURE)(measure.bench_command)
app.command("landscape", rich_help_panel=_MEASURE)(landscape.landscape_command)
app.command("interpolate", rich_help_panel=_MEASURE)(landscape.interpolate_command)
app.command("export", rich_help_panel=_MEASURE)(measure.export_command)

"""Shared by fuse, finetune and run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from compressor.cli.console import loading, print_json, print_note, print_notes, print_results, working
from compressor.cli.early_checks import check_job_early
from compressor.errors import UserError
from compressor.recipe import Recipe
from compressor.utils import distributed
from compressor.utils.files import work_folder

_START = time.perf_counter()


@dataclass(frozen=True)
class JobSettings:
    """Flags outside the recipe.

    Attributes:
        push_to: repository of the Hub.
        paths: keep local paths in the upload.
        force: replace an output.
        quiet: show no progress.
        debug: show library warnings and tracebacks.
        file: the recipe's.
    """

    push_to: str | None
    paths: bool
    force: bool
    resume: bool
    json: bool
    quiet: bool
    debug: bool
    file: str | None = None


def run_job(recipe: Recipe, settings: JobSettings) -> None:
    """Run a recipe, print its results, and upload the folder on request.

    Raises:
        UserError: --with-paths without --push-to-hub; or see `run_recipe`.
    """
    if settings.paths and settings.push_to is None:
        raise UserError("--with-paths is of --push-to-hub: without that nothing is uploaded")
    if distributed.is_main_process():
        check_job_early(recipe, settings.force, settings.file)
    with _resume_hint(recipe), working(settings.debug, settings.quiet) as progress:
        with loading():
            from compressor.pipeline.output import hub
            from compressor.pipeline.run import run as job

        if settings.push_to is not None:
            hub.check_push(settings.push_to)
        report = job.run_recipe(
            recipe,
            force=settings.force,
            resume=settings.resume,
            progress=progress,
            begun=_START,
            file=settings.file,
            remark=print_note,
        )
    if not distributed.is_main_process():
        return
    _show(report, settings.json)
    if settings.push_to is not None:
        # After the results: a failed upload harms nothing.
        with working(settings.debug, settings.quiet) as progress:
            progress("push", None, f"uploading to {settings.push_to}")
            address = hub.push(report["recipe"]["output"], settings.push_to, paths=settings.paths)
        print_note(f"pushed to {address}")


def _show(report: dict[str, Any], json: bool) -> None:
    print_notes(report["warnings"], "warning")
    print_notes(report["notes"])
    if json:
        print_json(report)
        return
    from compressor.report.summary import summary_lines, table_of

    print_results(table_of(report), *summary_lines(report))


@contextmanager
def _resume_hint(recipe: Recipe) -> Iterator[None]:
    """After an interruption, say how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        work = work_folder(recipe.output)
        hint = f"{work} was kept: go on by adding --resume to the same command" if work.exists() else "nothing is left"
        raise KeyboardInterrupt(f"{recipe.output} was not written; {hint}") from None

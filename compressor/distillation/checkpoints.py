"""Which checkpoints a run may resume from: finished ones, of the same run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.utils import distributed
from compressor.utils.files import atomic_write_text
from compressor.utils.out_of_memory import is_out_of_memory
from compressor.utils.strict_json import json_text

#: Written into a checkpoint after everything else: a folder without it was being written when the process died.
FINISHED = "finished"

#: What the run in a folder is, so that another one does not resume from it.
RUN = "run.json"

#: The folder of the weights that a judgement found best.
BEST = "best"

#: What to do about checkpoints that cannot be gone on from.
START_ANEW = "start anew, without resuming (--force in the command)"

#: The folder inside of what a search of the learning rate has tried.
SEARCH = "search"


def begin_checkpoints(work_dir: Path, run: dict[str, Any], resume: bool) -> None:
    """Make a folder ready for a run; of several processes the first one does.

    Args:
        work_dir: the folder; made if it does not exist.
        run: what makes this run the run that it is, JSON-ready.
        resume: keep what can be gone on from; otherwise all checkpoints and a search are removed.

    Raises:
        UserError: to be resumed, but the folder holds checkpoints of another run.
    """
    if distributed.is_main_process():
        _begin(work_dir, run, resume)
    distributed.barrier()


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from, or `None` to start at the beginning; all others in the folder are removed."""
    found = max((path for path in _checkpoints(folder) if _finished(path)), key=step_of, default=None)
    # All processes have looked before the first one removes anything.
    distributed.barrier()
    if distributed.is_main_process():
        for path in _checkpoints(folder):
            if path != found:
                shutil.rmtree(path)
    distributed.barrier()
    return found


def step_of(checkpoint: Path | None) -> int:
    """The steps that were done when a checkpoint was written; 0 for `None`, the beginning."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))


@contextmanager
def read_as_user_error(place: Path) -> Iterator[None]:
    """Turn whatever a broken or foreign file of a run raises inside into one line.

    Nothing of what torch says of pickles is passed on: it advises to run them.

    Args:
        place: the checkpoint or file that is read.

    Raises:
        UserError: it cannot be read, or is of something else.
    """
    broken = None
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        broken = type(error).__name__
    if broken:
        # Outside of the handler, so that nobody takes the first error for the reason of this one.
        raise UserError(f"cannot go on from {place}: it is broken or not of this finetune ({broken}); {START_ANEW}")


def _begin(work_dir: Path, run: dict[str, Any], resume: bool) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    # As it will be read back, with tuples as lists.
    run = json.loads(json.dumps(run))
    if resume and ((work_dir / SEARCH).exists() or any(map(_finished, _checkpoints(work_dir)))):
        _check_same(work_dir, run)
    if not resume:
        for name in (SEARCH, BEST):
            shutil.rmtree(work_dir / name, ignore_errors=True)
        for path in _checkpoints(work_dir):
            shutil.rmtree(path)
    atomic_write_text(work_dir / RUN, json_text(run, indent=1))


def _check_same(work_dir: Path, run: dict[str, Any]) -> None:
    try:
        before = json.loads((work_dir / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise UserError(f"cannot tell which run the checkpoints in {work_dir} are of: start anew, without resuming")
    differing = [key for key in run if before.get(key) != run[key]]
    if differing:
        raise UserError(
            f"the checkpoints in {work_dir} are of another run (differing: {', '.join(differing)}): "
            "use the same options, or start anew, without resuming"
        )


def _checkpoints(work_dir: Path) -> list[Path]:
    return [path for path in work_dir.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdigit()]


def _finished(checkpoint: Path) -> bool:
    return (checkpoint / FINISHED).exists()

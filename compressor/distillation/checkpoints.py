"""Checkpoints to resume from."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.distillation.damage import FINISHED, WEIGHTS, damage_of
from compressor.errors import CheckpointWarning, UserError
from compressor.utils import distributed
from compressor.utils.files import atomic_write_text
from compressor.utils.input_files import MIB, read_json
from compressor.utils.out_of_memory import is_out_of_memory
from compressor.utils.strict_json import json_text

#: File that identifies the run of a folder.
RUN = "run.json"

#: Folder of the weights with the least validation loss.
BEST = "best"

#: Advice on checkpoints that cannot be resumed from.
START_ANEW = "start anew, without resuming (--force in the command)"

#: Folder of a learning-rate search.
SEARCH = "search"


def prepare_checkpoints(work_dir: Path, run: dict[str, Any], resume: bool) -> None:
    """Prepare a folder for a run, in all processes; `resume` keeps checkpoints.

    Raises:
        UserError: `resume`, but the folder holds another run.
    """
    if distributed.is_main_process():
        _prepare(Path(work_dir), run, resume)
    distributed.barrier()


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, with a `CheckpointWarning` of newer ones; removes these and unfinished ones.

    Older ones stay until the training has written another.

    Raises:
        UserError: there are finished checkpoints, and none is whole; nothing is removed.
    """
    finished = sorted(filter(_is_finished, _checkpoints(folder)), key=step_of, reverse=True)
    damaged: dict[Path, str] = {}
    for checkpoint in finished:
        damage = damage_of(checkpoint, folder / BEST / WEIGHTS)
        if damage is None:
            break
        damaged[checkpoint] = damage
    if damaged and len(damaged) == len(finished):
        path, damage = next(iter(damaged.items()))
        raise UserError(f"cannot go on from {path}: {damage}{_and_others(len(damaged) - 1)}; {START_ANEW}")
    newest = finished[len(damaged)] if finished else None
    for path, damage in damaged.items():
        warnings.warn(CheckpointWarning(f"{path} is not whole ({damage}): went on from {newest}"), stacklevel=2)
    # All processes have looked before the main one removes anything.
    distributed.barrier()
    if distributed.is_main_process():
        for path in _checkpoints(folder):
            if path in damaged or not _is_finished(path):
                shutil.rmtree(path)
    distributed.barrier()
    return newest


def _and_others(count: int) -> str:
    return f", nor is any of {count} older" if count else ""


def step_of(checkpoint: Path | None) -> int:
    """Steps done; 0 for `None`."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("checkpoint-"))


@contextmanager
def read_as_user_error(path: Path) -> Iterator[None]:
    """Turn errors of reading into one line, without torch's advice to run pickles.

    Raises:
        UserError: the file is unreadable or foreign.
    """
    failure = None
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        failure = type(error).__name__
    if failure:
        # Outside the handler, so that the first error is not shown as the cause.
        raise UserError(f"cannot go on from {path}: it is broken or not of this finetune ({failure}); {START_ANEW}")


def _prepare(work_dir: Path, run: dict[str, Any], resume: bool) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    # Tuples become lists, as in the file.
    run = json.loads(json.dumps(run))
    if resume and ((work_dir / SEARCH).exists() or any(map(_is_finished, _checkpoints(work_dir)))):
        _check_same_run(work_dir, run)
    if not resume:
        _remove_former(work_dir)
    atomic_write_text(work_dir / RUN, json_text(run, indent=1))


def _remove_former(work_dir: Path) -> None:
    """Remove what a former finetune left; a folder without its record is somebody else's.

    Raises:
        UserError: such folders without a record.
    """
    former = [path for path in (work_dir / SEARCH, work_dir / BEST, *_checkpoints(work_dir)) if path.exists()]
    if former and not (work_dir / RUN).is_file():
        raise UserError(f"{former[0]} is of no finetune of this package, so it is not removed: choose another folder")
    for path in former:
        shutil.rmtree(path)


def _check_same_run(work_dir: Path, run: dict[str, Any]) -> None:
    try:
        previous = read_json(work_dir / RUN, MIB)
    except (OSError, ValueError):
        previous = None
    if not isinstance(previous, dict):
        raise UserError(f"cannot tell which run the checkpoints in {work_dir} are of: start anew, without resuming")
    differing = [key for key in run if previous.get(key) != run[key]]
    if differing:
        raise UserError(
            f"the checkpoints in {work_dir} are of another run (differing: {', '.join(differing)}): "
            "use the same options, or start anew, without resuming"
        )


def _checkpoints(work_dir: Path) -> list[Path]:
    # A link is not ours, and nothing behind it is removed.
    folders = (path for path in work_dir.glob("checkpoint-*") if path.is_dir() and not path.is_symlink())
    return [path for path in folders if path.name.removeprefix("checkpoint-").isdecimal()]


def _is_finished(checkpoint: Path) -> bool:
    return (checkpoint / FINISHED).exists()

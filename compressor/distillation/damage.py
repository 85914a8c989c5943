"""Whether a checkpoint is whole: as it was written, and readable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from compressor.utils.checksums import file_checksum, first_damage, folder_checksums
from compressor.utils.files import atomic_write_text
from compressor.utils.input_files import MIB, read_json
from compressor.utils.logging import one_line
from compressor.utils.out_of_memory import is_out_of_memory
from compressor.utils.strict_json import json_text

#: File written last into a checkpoint, with the checksums of the others; empty in checkpoints of former versions.
FINISHED = "finished"
#: Weights of a student.
WEIGHTS = "model.safetensors"
_BEST_CHECKSUMS = "checksums.json"
#: Most bytes of a `trainer_state.json`: some 200 a step.
_STATE_BYTES = 256 * MIB


def mark_finished(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, once all processes have written their part."""
    # The folder may hold a former mark, if the same step is saved again.
    (checkpoint / FINISHED).unlink(missing_ok=True)
    atomic_write_text(checkpoint / FINISHED, json_text(folder_checksums(checkpoint)))


def damage_of(checkpoint: Path, best: Path) -> str | None:
    """A line on the first damage of a finished checkpoint; None if it is whole.

    Args:
        best: the best weights of its run, which it may need.
    """
    try:
        text = (checkpoint / FINISHED).read_text(encoding="utf-8")
        checksums = json.loads(text) if text.strip() else {}
        if not isinstance(checksums, dict):
            return f"{FINISHED} is damaged"
    except (OSError, ValueError, RecursionError):
        return f"{FINISHED} is damaged"
    return first_damage(checkpoint, checksums) or _first_unreadable(checkpoint) or _damage_of_best(checkpoint, best)


def replace_best(partial: Path, weights: Path) -> None:
    """Move the best weights into place; a kill leaves the former or the new ones, whole."""
    # Before the move, beside the former weights' checksum: either is right then.
    checksums = [file_checksum(partial), *_best_checksums(weights)][:2]
    atomic_write_text(weights.with_name(_BEST_CHECKSUMS), json_text(checksums))
    partial.replace(weights)


def _best_checksums(weights: Path) -> list[str]:
    """Checksums that the best weights may have; [] if unknown."""
    try:
        return [str(checksum) for checksum in read_json(weights.with_name(_BEST_CHECKSUMS), MIB)]
    except (OSError, ValueError, TypeError):
        return []


def _damage_of_best(checkpoint: Path, best: Path) -> str | None:
    """The same of the run's best weights, if there are any by then."""
    if read_json(checkpoint / TRAINER_STATE_NAME, _STATE_BYTES).get("best_global_step") is None:
        return None
    line = _damage(best, _check_best)
    return None if line is None else f"{best.parent.name}/{line}"


def _first_unreadable(checkpoint: Path) -> str | None:
    """A line on the first part that is missing, cannot be read, or holds NaN."""
    parts: list[tuple[Path, Callable[[Path], None]]] = [
        (checkpoint / TRAINER_STATE_NAME, _check_state),
        (checkpoint / WEIGHTS, _check_weights),
        (checkpoint / SCHEDULER_NAME, _check_scheduler),
    ]
    # A sharded optimiser is a folder of files in a format of torch.distributed: its checksums must do.
    if not any(path.is_dir() and path.name.startswith("optimizer") for path in checkpoint.iterdir()):
        # One gathered from shards has another ending.
        gathered = checkpoint / "optimizer.bin"
        parts.append((gathered if gathered.exists() else checkpoint / OPTIMIZER_NAME, _check_optimizer))
    # One of each process.
    random_states = sorted(checkpoint.glob("rng_state*.pth"))
    parts += [(path, _check_random_state) for path in random_states or [checkpoint / "rng_state.pth"]]
    return next((line for path, check in parts if (line := _damage(path, check))), None)


def _damage(path: Path, check: Callable[[Path], None]) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        check(path)
    # Libraries raise errors of many classes on a broken file.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # Their messages may advise to run pickles; ours are all ValueErrors.
        reason = one_line(error) if type(error) is ValueError else type(error).__name__
        return f"{path.name} is broken ({reason})"
    return None


def _check_state(path: Path) -> None:
    state = read_json(path, _STATE_BYTES)
    if state["global_step"] != int(path.parent.name.removeprefix("checkpoint-")):
        raise ValueError("it is of another checkpoint")


def _check_weights(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if not names:
            raise ValueError("it holds no weights")
        for name in names:
            _check_finite(file.get_tensor(name))


def _check_best(path: Path) -> None:
    if (checksums := _best_checksums(path)) and file_checksum(path) not in checksums:
        raise ValueError("its checksum differs")
    _check_weights(path)


def _check_optimizer(path: Path) -> None:
    saved = _load(path)
    if not isinstance(saved["param_groups"], list):
        raise ValueError("it is of no optimiser")
    for moments in saved["state"].values():
        for value in moments.values():
            if isinstance(value, Tensor):
                _check_finite(value)


def _check_scheduler(path: Path) -> None:
    if "last_epoch" not in _load(path):
        raise ValueError("it is of no scheduler")


def _check_random_state(path: Path) -> None:
    with safe_globals():
        state = _load(path)
    if not {"python", "numpy", "cpu"} <= state.keys():
        raise ValueError("it is no state of random generators")


def _load(path: Path) -> Mapping[str, Any]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        raise ValueError("it holds something else")
    return loaded


def _check_finite(values: Tensor) -> None:
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        raise ValueError("it holds NaN or infinity")

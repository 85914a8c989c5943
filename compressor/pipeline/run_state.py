"""The work folder beside the output: what an interrupted run goes on from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.layer_maps import LAYER_MAPS_FILE as TRANSPORT
from compressor.layer_maps import load_layer_maps, save_layer_maps
from compressor.models.save import save_student
from compressor.models.weights import load_model
from compressor.pipeline.initial_student import InitialStudent
from compressor.utils.files import atomic_write_text
from compressor.utils.scratch import scratch, tidy
from compressor.utils.strict_json import json_text

#: The fused student, before any finetuning.
_STUDENT = "one-shot"
#: What the run is, and the report of its fusion; written last, so a folder without it was never complete.
_STATE = "state.json"
_CHECKPOINTS = "checkpoints"
#: The file that says that the folder is one of these; it is there before anything else.
_MARK = ".compressor-work"


def check_work(folder: Path) -> None:
    """Refuse a folder in the place of the work folder that is not one: it is the user's.

    Raises:
        UserError: there is one.
    """
    if os.path.lexists(folder) and not _is_work(folder):
        raise UserError(
            f"{folder} is not the work of an interrupted run, whose place it is in: move it away, or choose another "
            "--output"
        )


@dataclass(frozen=True)
class RunState:
    """The work folder of one run.

    Attributes:
        folder: see `compressor.utils.files.work_folder`.
        key: what the run is, JSON-ready: only a run with the same key goes on from it.
    """

    folder: Path
    key: Mapping[str, Any]

    @property
    def checkpoints(self) -> Path:
        """Where the finetune keeps its checkpoints."""
        return self.folder / _CHECKPOINTS

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse to overwrite the work of another run, or of this one unless it is resumed.

        Raises:
            UserError: the folder exists and is neither to be resumed nor to be replaced, or it is of another run, or
                none of ours.
        """
        check_work(self.folder)
        if not self.folder.exists():
            return
        if resume:
            self._read()
        elif not force:
            raise UserError(f"{self.folder} holds an interrupted run: go on with --resume, or start anew with --force")

    def load(self, teachers: Sequence[str] = ()) -> InitialStudent | None:
        """What was saved, or None if there is nothing; `teachers` are their fingerprints."""
        state = self._read()
        if state is None:
            return None
        return InitialStudent(
            load_model(self.folder / _STUDENT), state["report"], load_layer_maps(self.folder, teachers)
        )

    def save(self, student: InitialStudent, teachers: Sequence[str] = ()) -> None:
        """Begin the folder anew with the student before its finetune, and how it came about.

        Args:
            student: on the CPU.
            teachers: their fingerprints.

        Raises:
            UserError: it cannot be written, or there is one that is not ours.
        """
        check_work(self.folder)
        try:
            if self.folder.exists():
                self._clear()
            else:
                _make(self.folder)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder.parent}: {error.strerror}; choose another folder with --output"
            ) from None
        save_student(self.folder / _STUDENT, student.model)
        if student.layer_maps:
            save_layer_maps(self.folder, student.layer_maps, teachers)
        atomic_write_text(self.folder / _STATE, json_text({"key": self.key, "report": student.report}))

    def remove(self) -> None:
        """Remove the folder, for the run is finished; what others have put there stays, and the folder with it."""
        if not _is_work(self.folder):
            return
        self._clear()
        with suppress(OSError):
            (self.folder / _MARK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _clear(self) -> None:
        """Remove what runs write into the folder, but for the mark."""
        # Without its state there is nothing to resume, so that goes first.
        for name in (_STATE, TRANSPORT, f".{TRANSPORT}.partial.npz"):
            (self.folder / name).unlink(missing_ok=True)
        for name in (_STUDENT, _CHECKPOINTS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for _ in tidy(self.folder / _STATE):
            pass

    @contextmanager
    def kept_if_interrupted(self) -> Iterator[None]:
        """Whatever ends the block early keeps the folder if there is something to go on from, and removes it if not."""
        try:
            yield
        except KeyboardInterrupt:
            if not (self.folder / _STATE).exists():
                self.remove()
            raise
        except BaseException:
            if not any(self.checkpoints.glob("**/checkpoint-*/finished")):
                self.remove()
            raise

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / _STATE
        if not path.exists():
            return None
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            before = state["key"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"cannot read {path} ({error}): start anew with --force") from None
        differing = sorted(key for key in {*before, *self.key} if before.get(key) != self.key.get(key))
        if differing:
            raise UserError(
                f"{self.folder} is of a run with another {', '.join(differing)}: "
                "resume with the same options, or start anew with --force"
            )
        return state


def _make(folder: Path) -> None:
    """Make a work folder that has its mark from the start, whenever the process dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder) as place:
        new = place / folder.name
        new.mkdir()
        (new / _MARK).touch()
        new.rename(folder)


def _is_work(folder: Path) -> bool:
    """Whether a folder has our mark, or the state of a former version's run."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if (folder / _MARK).is_file():
        return True
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        return isinstance(state["key"]["teachers"], list) and "report" in state
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False

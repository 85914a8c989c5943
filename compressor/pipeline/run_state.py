"""The work folder beside the output: what an interrupted run goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.layer_maps import load_layer_maps, save_layer_maps
from compressor.models.save import save_student
from compressor.models.weights import load_model
from compressor.pipeline.initial_student import InitialStudent
from compressor.utils.files import atomic_write_text

#: The fused student, before any finetuning.
_STUDENT = "one-shot"
#: What the run is, and the report of its fusion; written last, so a folder without it was never complete.
_STATE = "state.json"
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RunState:
    """The work folder of one run.

    Attributes:
        folder: see `compressor.utils.work_folders`.
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
            UserError: the folder exists and is neither to be resumed nor to be replaced, or it is of another run.
        """
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

    def save(self, beginning: InitialStudent, teachers: Sequence[str] = ()) -> None:
        """Begin the folder anew with the student before its finetune, and how it came about.

        Args:
            beginning: the student.
            teachers: their fingerprints.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder.parent}: {error.strerror}; choose another folder with --output"
            ) from None
        save_student(self.folder / _STUDENT, beginning.model)
        if beginning.passages:
            save_layer_maps(self.folder, beginning.passages, teachers)
        atomic_write_text(self.folder / _STATE, json.dumps({"key": self.key, "report": beginning.report}))

    def remove(self) -> None:
        """Remove the folder: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

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

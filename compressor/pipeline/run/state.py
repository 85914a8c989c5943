"""The work folder that an interrupted run resumes from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.layer_maps import LAYER_MAPS_FILE, load_layer_maps, save_layer_maps
from compressor.models.folder.save import save_student
from compressor.models.folder.weights import load_model
from compressor.pipeline.run.initial_student import InitialStudent
from compressor.utils.checksums import first_damage, folder_checksums, is_broken, sealed
from compressor.utils.files import atomic_write_text
from compressor.utils.input_files import MIB, read_json
from compressor.utils.logging import one_line
from compressor.utils.scratch import scratch, tidy
from compressor.utils.strict_json import json_text

#: The fused student, before any finetuning.
_STUDENT = "one-shot"
#: The run's key and the report of its fusion; written last: without it the folder is incomplete.
_STATE = "state.json"
#: Most bytes of it that are read: a report has some 100 kB.
STATE_BYTES = 64 * MIB
_CHECKPOINTS = "checkpoints"
#: Finished layers of a fusion that reads its models from disk.
_LAYERS = "layers"
#: The file that marks a work folder; written first.
_MARK = ".compressor-work"


def check_work(folder: Path) -> None:
    """Refuse a user's folder in place of the work folder.

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
        folder: see `work_folder`.
        key: JSON-ready; must match to resume.
    """

    folder: Path
    key: Mapping[str, Any]

    @property
    def checkpoints(self) -> Path:
        """The finetune's checkpoints."""
        return self.folder / _CHECKPOINTS

    def check(self, *, resume: bool, force: bool) -> None:
        """Refuse to overwrite another run's work, or this run's unless resumed.

        Raises:
            UserError: the folder is neither resumed nor replaced, or not this run's.
        """
        check_work(self.folder)
        if not self.folder.exists():
            return
        if resume:
            self._read()
        elif not force:
            raise UserError(f"{self.folder} holds an interrupted run: go on with --resume, or start anew with --force")

    def load(self, teachers: Sequence[str] = ()) -> InitialStudent | None:
        """The saved student or None; `teachers` are fingerprints.

        Raises:
            UserError: it is damaged, or of another run.
        """
        state = self._read()
        if state is None:
            return None
        damage = first_damage(self.folder, state.get("files", {}))
        if damage is not None:
            raise UserError(f"cannot go on from {self.folder}: {damage}; start anew with --force")
        return InitialStudent(
            load_model(self.folder / _STUDENT), state["report"], load_layer_maps(self.folder, teachers)
        )

    def save(self, student: InitialStudent, teachers: Sequence[str] = ()) -> None:
        """Start the folder anew with the student before its finetune; `teachers` are fingerprints.

        Raises:
            UserError: the folder is unwritable or a user's.
        """
        self._start(clear=True)
        save_student(self.folder / _STUDENT, student.model)
        if student.layer_maps:
            save_layer_maps(self.folder, student.layer_maps, teachers)
        files = folder_checksums(self.folder, _STUDENT, LAYER_MAPS_FILE)
        values = {"key": self.key, "report": student.report, "files": files}
        atomic_write_text(self.folder / _STATE, json_text(sealed(values)))

    def layers(self, *, resume: bool) -> Path:
        """The folder for finished layers of a fusion that reads its models from disk.

        Args:
            resume: keep those of an interrupted run.

        Raises:
            UserError: it is unwritable or a user's.
        """
        self._start(clear=not resume)
        return self.layers_of(0)

    def layers_of(self, rank: int) -> Path:
        """The folder for finished layers of one of several processes; the first one makes the folder that it is in."""
        return self.folder / (_LAYERS if rank == 0 else f"{_LAYERS}-{rank}")

    def _start(self, *, clear: bool) -> None:
        """Make the folder, or clear it."""
        check_work(self.folder)
        try:
            if not self.folder.exists():
                _make(self.folder)
            elif clear:
                self._clear()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder.parent}: {error.strerror}; choose another folder with --output"
            ) from None

    def remove(self) -> None:
        """Remove the files of a finished run, and the folder if empty."""
        if not _is_work(self.folder):
            return
        self._clear()
        with suppress(OSError):
            (self.folder / _MARK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _clear(self) -> None:
        """Remove all files of runs but the mark."""
        # The state first: without it there is nothing to resume.
        for name in (_STATE, LAYER_MAPS_FILE, f".{LAYER_MAPS_FILE}.partial.npz"):
            (self.folder / name).unlink(missing_ok=True)
        layers = [path.name for path in self.folder.glob(f"{_LAYERS}-*")]
        for name in (_STUDENT, _CHECKPOINTS, _LAYERS, *layers):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for _ in tidy(self.folder / _STATE):
            pass

    @contextmanager
    def kept_if_interrupted(self) -> Iterator[None]:
        """At an exception keep a resumable folder, else remove it."""
        try:
            yield
        except KeyboardInterrupt:
            if not (self.folder / _STATE).exists():
                self.remove()
            raise
        except BaseException:
            if not self._has_checkpoints():
                self.remove()
            raise

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / _STATE
        if not path.exists():
            if self._has_checkpoints():
                raise UserError(
                    f"{path} is missing, so {self.checkpoints} cannot be gone on from: start anew with --force"
                )
            return None
        try:
            state = read_json(path, STATE_BYTES)
            key = dict(state["key"])
            if is_broken(state) or not isinstance(state["report"], dict):
                raise ValueError("it is damaged")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"cannot read {path} ({one_line(error)}): start anew with --force") from None
        differing = sorted(name for name in {*key, *self.key} if key.get(name) != self.key.get(name))
        if differing:
            raise UserError(
                f"{self.folder} is of a run with another {', '.join(differing)}: "
                "resume with the same options, or start anew with --force"
            )
        return state

    def _has_checkpoints(self) -> bool:
        return any(self.checkpoints.glob("**/checkpoint-*/finished"))


def _make(folder: Path) -> None:
    """Make a work folder, marked from the start."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder) as place:
        new = place / folder.name
        new.mkdir()
        (new / _MARK).touch()
        new.rename(folder)


def _is_work(folder: Path) -> bool:
    """Whether a folder has the mark, or a former version's state."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if (folder / _MARK).is_file():
        return True
    try:
        state = read_json(folder / _STATE, STATE_BYTES)
        return isinstance(state["key"]["teachers"], list) and "report" in state
    except (OSError, ValueError, KeyError, TypeError):
        return False


def width_of_work(folder: Path) -> float | None:
    """The width of an interrupted run, or None."""
    try:
        return float(read_json(folder / _STATE, STATE_BYTES)["key"]["width"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

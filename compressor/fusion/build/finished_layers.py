"""Finished layers of a student on disk, from which an interrupted fusion goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from compressor.fusion.build.student import BuildReport, StudentBuilder
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.models.streamed import StoredWeights, blocks_of
from compressor.utils.files import atomic_write_text
from compressor.utils.input_files import MIB, read_json
from compressor.utils.process_memory import return_freed_memory

#: The file that lists what is finished; written after each layer.
_STATE = "layers.json"
_STATE_BYTES = 64 * MIB


class FinishedLayers:
    """The layers of one student, a file each, and their entries of its report.

    Args:
        folder: their place; layers of a fusion with the same key are gone on from, all others are removed.
        key: tells fusions apart: all that a layer depends on.
        processes: each has a folder of its own; all go on from the layer that the last of them has finished.
    """

    def __init__(self, student: StudentBuilder, folder: Path, key: str, processes: Processes = ALONE) -> None:
        self._student, self._folder, self._key, self._processes = student, folder, key, processes
        blocks = blocks_of(student.model)
        assert blocks is not None and isinstance(blocks.source, StoredWeights)
        self._blocks, self._source = blocks, blocks.source
        spaces = student.anatomy.spaces.values()
        # Layers that share an order of heads, or are one layer, depend on more than their files.
        if any(space.order for space in spaces) or any(stack.runs > 1 for stack in student.anatomy.stacks):
            self.remove()
        entries = self._read()
        self._entries = dict(list(entries.items())[: processes.least(len(entries))])
        self._reported = _lengths(student.report)
        for layer, entry in self._entries.items():
            self._source.add(folder / entry["file"], self._blocks.names(layer))

    def __contains__(self, layer: str) -> bool:
        return layer in self._entries

    def add(self, layer: str, hidden: Iterable[Tensor] = ()) -> None:
        """Write a layer that is in memory.

        Args:
            hidden: its outputs, per batch, where they cannot be computed again bit by bit.
        """
        file = f"layer-{len(self._entries):05}.safetensors"
        for index, values in enumerate(hidden):
            self._outputs(layer).mkdir(exist_ok=True)
            save_file({"hidden": values.contiguous()}, self._outputs(layer) / f"{index}.safetensors")
        names = self._blocks.names(self._blocks.block_of(layer))
        partial = self._folder / f"{file}.partial"
        save_file({name: self._student.parameters[name].data for name in names}, partial)
        partial.replace(self._folder / file)
        before = self._reported
        self._reported = _lengths(self._student.report)
        report = {name: getattr(self._student.report, name)[start:] for name, start in before.items()}
        self._entries[layer] = {"file": file, "report": report}
        atomic_write_text(self._folder / _STATE, json.dumps({"key": self._key, "layers": self._entries}))
        self._source.add(self._folder / file, names)
        # None forgets what a process that is killed now would go on from.
        self._processes.least(len(self._entries))
        return_freed_memory()
        # A later stack reads what the last layer of this one gives.
        ends = {stack.layers[-1] for stack in self._student.anatomy.stacks}
        for other in self._entries.keys() - ends - {layer}:
            shutil.rmtree(self._outputs(other), ignore_errors=True)

    def hidden(self, layer: str) -> list[Tensor]:
        """A finished layer's outputs; none where a later layer's are known."""
        files = self._outputs(layer).glob("*.safetensors")
        return [load_file(file)["hidden"] for file in sorted(files, key=lambda file: int(file.stem))]

    def restore(self, layer: str) -> None:
        """Take a finished layer's entries into the report."""
        for name, entries in self._entries[layer]["report"].items():
            getattr(self._student.report, name).extend(entries)
        self._reported = _lengths(self._student.report)

    def remove(self) -> None:
        """Remove the files, and the folder if nothing else is in it."""
        with suppress(OSError):
            for file in (self._folder / _STATE, *self._folder.glob("layer-*.safetensors*")):
                file.unlink(missing_ok=True)
            for outputs in self._folder.glob("outputs-*"):
                shutil.rmtree(outputs, ignore_errors=True)
            self._folder.rmdir()

    def _outputs(self, layer: str) -> Path:
        return self._folder / f"outputs-{layer}"

    def _read(self) -> dict[str, dict[str, Any]]:
        """What is finished; an empty folder if that is of another fusion or unreadable."""
        try:
            state = read_json(self._folder / _STATE, _STATE_BYTES)
            entries: dict[str, dict[str, Any]] = state["layers"]
            if state["key"] == self._key and all((self._folder / e["file"]).is_file() for e in entries.values()):
                return entries
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.remove()
        self._folder.mkdir(parents=True, exist_ok=True)
        return {}


def _lengths(report: BuildReport) -> dict[str, int]:
    """The lists of a report that layers add to, and their lengths."""
    return {name: len(getattr(report, name)) for name in ("couplings", "projections", "fits")}

"""Where a run keeps what; light to import, for the moment when nothing else may be loaded any more."""

from __future__ import annotations

from pathlib import Path

from compressor.utils.files import whole_path


def work_folder(output: str | Path) -> Path:
    """Where a run with this output keeps what it can be resumed from."""
    output = whole_path(output)
    return output.with_name(output.name + ".work")

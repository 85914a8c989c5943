"""Write matplotlib's figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its file's suffix; an SVG of the same figure has the same bytes.

    Args:
        figure: what is written.
        path: of the file.
    """
    from matplotlib import rc_context

    suffix = path.suffix.lower()
    # Ids are random without a salt, and the date would be of the day.
    with rc_context({"svg.hashsalt": "compressor"}):
        figure.savefig(path, format=suffix[1:], metadata={"Date": None} if suffix == ".svg" else None)

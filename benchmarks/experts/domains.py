"""Write the texts of two domains: tiny Shakespeare, and as much of Python's standard library.

    python -m benchmarks.experts.domains --text tinyshakespeare.txt -o data/domains

Each domain becomes `<name>-train.txt`, `-validation.txt` and `-test.txt`, nine tenths, one and one twentieth.
"""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.text.corpora import cut

PARTS = ("train", "validation", "test")
#: Of the order of the library's files: the parts of a text cut by position then hold like modules.
ORDER_SEED = 0


def main(
    text: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="File with tiny Shakespeare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the texts.")],
) -> None:
    """Write both domains' texts and print their lengths."""
    output.mkdir(parents=True, exist_ok=True)
    shakespeare = text.read_text(encoding="utf-8")
    for name, content in (("shakespeare", shakespeare), ("python", standard_library(len(shakespeare)))):
        for part, piece in zip(PARTS, cut(content), strict=True):
            (output / f"{name}-{part}.txt").write_text(piece, encoding="utf-8")
        typer.echo(f"{name}: {len(content):,} characters")


def standard_library(characters: int, folder: Path | None = None) -> str:
    """The modules at the top of a library's folder, one after another, up to so many characters.

    Args:
        folder: default: that of the running Python, so that other versions give other texts.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))
    random.Random(ORDER_SEED).shuffle(files)
    text = ""
    for file in files:
        content = file.read_text(encoding="utf-8")
        # Bytes of other scripts are rare, and neither text has them elsewhere.
        text += content if content.isascii() else ""
        if len(text) >= characters:
            break
    return text[:characters]


if __name__ == "__main__":
    typer.run(main)

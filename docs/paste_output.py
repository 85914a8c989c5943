"""Runs the commands of the pages of tasks, and pastes what they print into the block that follows each.

    python docs/examples/task_teachers.py FOLDER
    python docs/paste_output.py FOLDER [PAGE …]

A page is a name such as `causal-lm`; all of docs/tasks/ by default. Blocks of `bash` and `python` run in FOLDER, in
order. Where a block of `text` follows, it becomes what they printed, at a terminal's usual width. The table of the
quickstart is that of the page of images, of which it shows the first columns.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "tasks"
QUICKSTART, OF_QUICKSTART = ROOT / "docs" / "quickstart.md", "image-classification"
#: Columns of a terminal.
WIDTH = 80
#: The rows of a block that begins with a table.
_TABLE = re.compile(r"(?<=^```text\n) model .*?(?=^```)", re.MULTILINE | re.DOTALL)
#: A block of commands or Python, and the block of output that follows it, if one does.
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n(\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)


def paste(page: str, run: Callable[[str, str], str]) -> str:
    """A page with the output of its blocks.

    Args:
        run: called with language and code; returns what it printed.
    """

    def fresh(block: re.Match[str]) -> str:
        language, code, output = block.groups()
        printed = run(language, code).strip("\n")
        head = f"```{language}\n{code}```\n"
        return head if output is None else f"{head}\n```text\n{printed}\n```\n"

    return _BLOCK.sub(fresh, page)


def short_table(page: str) -> str:
    """Model, accuracy and KL of the first table of results in a page, from its heading to the result's row."""
    lines = page.splitlines()
    last = next(index for index, line in enumerate(lines) if line.lstrip().startswith("→ "))
    first = max(index for index in range(last) if "KL ↓" in lines[index])
    end = lines[first].index("KL ↓") + len("KL ↓")
    return "".join(f"{line[:end].rstrip()}\n" for line in lines[first : last + 1])


def paste_table(quickstart: str, page: str) -> str:
    """The quickstart with the table of a page."""
    table = short_table(page)
    indent = "" if table.startswith(" ") else " "
    return _TABLE.sub("".join(f"{indent}{line}\n" for line in table.splitlines()), quickstart, count=1)


def run_in(place: Path) -> Callable[[str, str], str]:
    """Runs blocks in a folder; a command that fails ends everything."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "dumb", "PYTHONPATH": str(ROOT)}

    def run(language: str, code: str) -> str:
        printed = ""
        commands = [shlex.split(line) for line in code.splitlines()] if language == "bash" else [["python", "-c", code]]
        for program, *words in commands:
            start = ["-m", "compressor"] if program == "compress" else []
            call = [sys.executable, *start, *words]
            print(shlex.join([program, *words])[:79], file=sys.stderr)
            printed += _output(call, place, environment)
        return printed

    return run


def _output(call: list[str], place: Path, environment: dict[str, str]) -> str:
    """What a command writes to a terminal, and progress and notes apart.

    Raises:
        CalledProcessError: it failed.
    """
    reader, terminal = os.openpty()
    with subprocess.Popen(call, cwd=place, env=environment, stdout=terminal) as process:
        os.close(terminal)
        parts = []
        try:
            while part := os.read(reader, 1 << 16):
                parts.append(part)
        # So Linux says that the other end is closed.
        except OSError:
            pass
        os.close(reader)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, call)
    return "".join(f"{line.rstrip()}\n" for line in b"".join(parts).decode().splitlines())


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    for path in [PAGES / f"{name}.md" for name in names] or sorted(PAGES.glob("*.md")):
        path.write_text(paste(path.read_text(encoding="utf-8"), run_in(Path(folder))), encoding="utf-8")
        if path.stem == OF_QUICKSTART:
            table = paste_table(QUICKSTART.read_text(encoding="utf-8"), path.read_text(encoding="utf-8"))
            QUICKSTART.write_text(table, encoding="utf-8")

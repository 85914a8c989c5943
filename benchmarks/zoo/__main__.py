"""The table of the whole zoo, made by one command that can be stopped and continued.

    python -m benchmarks.zoo -o docs/zoo.md

Every model type is tried in a process of its own, forked from one that has imported the libraries, under limits of time
and memory.  Rows already in the JSON file of the same versions are kept; name types to try them anew.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

import compressor
from benchmarks.zoo.attempt import STEPS, Row, attempt
from benchmarks.zoo.page import markdown
from benchmarks.zoo.tiny import model_types

#: Limits of one type.
SECONDS, BYTES = 60, 12 << 30
#: A busy machine may take so many times longer.
PATIENCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types to try anew; all that have no row if omitted")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file; figures go beside it as .json")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="limit of one type, of processor time")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help="last step of every type")
    parser.add_argument("--every", type=int, default=1, help="try each n-th type only")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    figures = arguments.output.with_suffix(".json")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    rows = _kept(figures, versions)
    code = _code()
    wanted = arguments.types or [
        n for n in model_types()[:: arguments.every] if not _done(rows.get(n), arguments.until)
    ]
    if arguments.until == "fuse" and len(wanted) > 1:
        # What an export imports and compiles is inherited by every process.
        attempt("bert", "fuse", lambda row: None)
    for name in wanted:
        start = time.perf_counter()
        rows[name] = _in_process(name, arguments.seconds, arguments.until)
        rows[name] |= {"seconds": round(time.perf_counter() - start, 1), "code": code, "until": arguments.until}
        print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)
        ordered = dict(sorted(rows.items()))
        figures.write_text(json.dumps({"versions": versions, "types": ordered}, indent=1) + "\n", encoding="utf-8")
        arguments.output.write_text(markdown(ordered, versions), encoding="utf-8")


def _in_process(name: str, seconds: int, until: str) -> Row:
    """The last row that a process for one type reports within its limits."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(name, until, seconds, theirs))
    child.start()
    theirs.close()
    row: Row = {}
    deadline = time.monotonic() + PATIENCE * seconds
    try:
        while ours.poll(max(0.0, deadline - time.monotonic())):
            row = ours.recv()
        row |= {"message": f"stopped after {PATIENCE * seconds} s", "failed": "time"}
        child.kill()
    except EOFError:
        child.join()
        if child.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
            row |= {"message": f"stopped after {seconds} s of processor time", "failed": "time"}
        elif child.exitcode:
            row |= {"message": f"the process ended with {child.exitcode}", "failed": "process", "traceback": True}
    child.join()
    return row


def _work(name: str, until: str, seconds: int, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    attempt(name, until, pipe.send)


def _done(row: Row | None, until: str) -> bool:
    """Whether a type was tried up to a step, or failed before it."""
    if row is None:
        return False
    return bool(row.get("failed")) or STEPS.index(row.get("until", STEPS[-1])) >= STEPS.index(until)


def _code() -> str:
    """The commit of the code that is tried, or its version."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or compressor.__version__


def _kept(figures: Path, versions: dict[str, Any]) -> dict[str, Row]:
    """Rows of an earlier run with the same versions."""
    if not figures.exists():
        return {}
    found = json.loads(figures.read_text(encoding="utf-8"))
    return dict(found["types"]) if found["versions"] == versions else {}


if __name__ == "__main__":
    main()

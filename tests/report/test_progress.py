"""Progress: bars that fit a terminal of 80 columns, and plain lines elsewhere."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from command import STAGE, tiny_recipe, write_recipe
from rich.console import Console
from rich.progress import Progress

from compressor.report import progress


def drawn(*steps, width=80):
    """Lines on a terminal of some width, without escapes."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    with progress.progress_bars(console, True) as show:
        for step in steps:
            show(*step)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", stream.getvalue()).replace("\r", "\n").splitlines()


def test_a_long_label_is_cut_and_the_times_are_whole():
    label = "evaluating the teachers: a-teacher-with-a-long-name 61.3 %, another-with-a-long-name 60.9 %"
    lines = drawn(("evaluate", 0.5, label), ("fuse", None, "fusing"))
    assert max(map(len, lines)) <= 80
    bars = [line for line in lines if label[:20] in line and not line.startswith("✓")]
    assert bars and all(re.search(r"… \S+ \d:\d\d:\d\d( left \d:\d\d:\d\d)? *$", line) for line in bars)
    (finished,) = [line for line in lines if line.startswith("✓ evaluating")]
    assert re.search(r"…\s+0:00:00\s*$", finished) and len(finished) <= 80


def test_a_time_is_left_only_where_it_is_known():
    assert not [line for line in drawn(("fuse", None, "fusing"), ("fuse", None, "fusing")) if "left" in line]
    # A second a look.
    bars, column = Progress(get_time=iter(range(10**6)).__next__), progress._Remaining()
    task = bars.add_task("fusing", total=None)
    assert column.render(bars.tasks[0]).plain == ""
    for share in range(1, 5):
        bars.update(task, total=1.0, completed=share / 10)
    assert re.fullmatch(r"left \d:\d\d:\d\d", column.render(bars.tasks[0]).plain)


def test_the_import_of_libraries_leaves_no_line():
    assert not [line for line in drawn((progress.IMPORTING, None, "loading libraries"), ("fuse", None, "fusing"))
                if line.startswith("✓ loading")]  # fmt: skip


def written(steps, monkeypatch, seconds=1.0):
    """Lines in a log, with so many seconds between steps."""
    lines, now = [], [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_lines(lines.append, True) as show:
        for step in steps:
            show(*step)
            now[0] += seconds
    return [line.partition(" ")[2] for line in lines]


def test_a_log_has_a_line_a_stage_with_time_and_score(monkeypatch):
    steps = [
        (progress.IMPORTING, None, "loading libraries"),
        ("load", None, "loading the teachers"),
        ("evaluate", None, "evaluating"),
        ("evaluate", 1.0, "one-shot 59.6 %"),
        ("evaluate", None, "evaluating"),
        ("evaluate", 1.0, "finetuned\n61.6 %"),
    ]
    assert written(steps, monkeypatch) == [
        "loading the teachers (1.0 s)", "one-shot 59.6 % (2.0 s)", "finetuned 61.6 % (2.0 s)",
    ]  # fmt: skip


def test_a_stage_of_hours_is_not_silent(monkeypatch):
    steps = [("finetune", step / 10, f"step {step} of 10") for step in range(10)]
    lines = written(steps, monkeypatch, seconds=45.0)
    assert lines[:2] == ["step 2 of 10 (after 0:01:30, 20% done)", "step 4 of 10 (after 0:03:00, 40% done)"]
    assert lines[-1] == "step 9 of 10 (450.0 s)" and len(lines) == 5


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 0), (5.0, 2)])
def test_an_early_refusal_is_one_line(monkeypatch, seconds, count):
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with pytest.raises(ValueError), progress.progress_lines(lines.append, True) as show:
        for stage in ("check", "load", "data"):
            show(stage, None, stage)
            now[0] += seconds
        raise ValueError
    assert len(lines) == count


@pytest.fixture
def recipe(vit_a, vit_b, image_folder, tmp_path):
    return write_recipe(tmp_path / "r.yaml", tiny_recipe([vit_a, vit_b], image_folder, tmp_path / "s"))


def test_a_fusion_in_a_pipe_says_what_it_does(capsys, recipe):
    from compressor.cli import run_command

    assert run_command(["run", str(recipe), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["table"], "stdout holds JSON alone"
    lines = err.splitlines()
    assert all(STAGE.fullmatch(f"{line}\n") and re.search(r" \(\d+\.\d s\)$", line) for line in lines)
    assert any("finetuning: step 4 of 4" in line for line in lines)
    shown = {row["name"]: f"{100 * row['accuracy']:.1f} %" for row in json.loads(out)["table"]}
    assert any(f"finetuned {shown['finetuned']}" in line for line in lines)
    assert any(f"a {shown['a']}, b {shown['b']}, ensemble {shown['ensemble']}" in line for line in lines)


def test_quiet_is_quiet(capsys, vit_a, image_folder):
    from compressor.cli import run_command

    for quiet, lines in (((), 3), (("--quiet",), 0)):
        assert run_command(["evaluate", str(vit_a), "--data", str(image_folder), *quiet]) == 0
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_the_first_line_needs_no_parser(capsys, monkeypatch):
    """On a terminal it is there before typer, pydantic and rich are imported, and gone with their first line."""
    from compressor.cli.first_line import first_line

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    with first_line(["fuse", "a", "b"], shown):
        assert shown.getvalue() == "compress fuse: starting"
    assert shown.getvalue().endswith("\r\x1b[2K")
    for silent in (["fuse", "--help"], [], ["--version"], ["fuse", "a", "--quiet"]):
        shown = Terminal()
        with first_line(silent, shown):
            assert shown.getvalue() == ""
    with first_line(["fuse"], log := io.StringIO()):
        assert log.getvalue() == ""
    assert sys.modules["compressor.cli.first_line"].__file__

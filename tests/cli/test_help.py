"""Help in two lengths, and what a shell completes."""

from __future__ import annotations

import os
import sys

import pytest
import typer.main

from compressor.cli.app import app
from compressor.cli.completion import COMPLETIONS, WORDS, complete_data, complete_models
from compressor.cli.options import FIRST_FLAGS, FLAGS

COMMANDS = typer.main.get_command(app).commands


def help_of(command, flag, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(typer.Exit):
        COMMANDS[command].make_context(command, [flag])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_is_short_and_help_all_has_every_flag(command, monkeypatch, capsys):
    short = help_of(command, "--help", monkeypatch, capsys)
    assert len(short.splitlines()) <= 90 and "--json" in short
    flags = {name for parameter in COMMANDS[command].params for name in parameter.opts if name.startswith("--")}
    shown = short if len(COMMANDS[command].params) <= 20 else help_of(command, "--help-all", monkeypatch, capsys)
    assert not {flag for flag in flags if flag not in shown}
    # The first job's flags are never hidden.
    assert not {flag for flag in flags & set(FIRST_FLAGS) if flag not in short}


def test_the_job_and_the_data_come_first(monkeypatch, capsys):
    text = help_of("fuse", "--help", monkeypatch, capsys)
    places = [text.index(words) for words in ("Example:", "The job", "Data", "Finetune", "General")]
    assert places == sorted(places) and "--help-all" in text and "--epsilon" not in text


def test_every_closed_list_completes():
    import click

    parameters = {name: one for command in COMMANDS.values() for one in command.params for name in one.opts}
    for flag in FLAGS.values():
        if flag.words and flag.name in parameters:
            found = {item.value for item in parameters[flag.name].shell_complete(click.Context(click.Command("x")), "")}
            assert set(flag.words) <= found, flag.name


def test_words_that_complete_are_those_that_are_known():
    from compressor.data.augment import AUGMENTATIONS
    from compressor.distillation.losses import LOSSES
    from compressor.export.formats import EXPORT_FORMATS
    from compressor.fusion import POLICIES, RESIDUAL_MAPS, UNIT_MAPS
    from compressor.fusion.calibration.token_filters import TOKEN_FILTERS
    from compressor.transport import COST_SCALES, COSTS, PREPARATIONS, SOLVERS

    known = {
        "--formats": EXPORT_FORMATS.names(), "--residual": ("auto", *RESIDUAL_MAPS.names(), *POLICIES.names()),
        "--inner": ("auto", *UNIT_MAPS.names()), "--solver": SOLVERS.names(), "--cost": COSTS.names(),
        "--preparation": PREPARATIONS.names(), "--normalise": ("none", *COST_SCALES.names()),
        "--tokens": TOKEN_FILTERS.names(), "--augment": AUGMENTATIONS.names(), "--losses": ("auto", *LOSSES.names()),
        "--weights": ("auto", "equal"),
    }  # fmt: skip
    assert {flag: sorted(words) for flag, words in WORDS.items()} == {f: sorted(set(w)) for f, w in known.items()}


def test_names_and_paths_complete(tmp_path, monkeypatch):
    from compressor.data.source_splits import BUILTIN_DATA
    from compressor.export.formats import EXPORT_FORMATS
    from compressor.models.builtin import BUILTIN

    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit-mine").mkdir()
    (tmp_path / "video.csv").touch()
    (tmp_path / ".hidden").mkdir()
    assert complete_models("vi") == [*BUILTIN, f"vit-mine{os.sep}"]
    assert complete_data("") == [*BUILTIN_DATA, "video.csv", f"vit-mine{os.sep}"]
    assert COMPLETIONS["--formats"]("onnx,") == [f"onnx,{name}" for name in EXPORT_FORMATS.names()]
    assert COMPLETIONS["--residual"]("aver") == ["averaging"]


def test_what_a_shell_asks_first_imports_nothing_heavy():
    """Models and paths complete while the user types."""
    import subprocess

    code = (
        "import sys; from compressor.cli.completion import complete_models; complete_models('v'); "
        "import compressor.cli.app; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

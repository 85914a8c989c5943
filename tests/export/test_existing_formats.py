"""`compress export` writes the formats that are missing, and leaves files that are of the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import compress


@pytest.fixture
def folder(finished_run, tmp_path):
    """A folder of a run with its float32 ONNX file."""
    return Path(shutil.copytree(finished_run[0], tmp_path / "s"))


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()}


@pytest.mark.slow
def test_the_example_of_the_help_works(capsys, folder, image_folder):
    """A run has written onnx; int8 is added beside it, then the float file that somebody removed."""
    before = contents(folder)
    asked = ("export", folder, "--formats", "onnx,onnx-int8", "--data", image_folder)
    code, out, err = compress(capsys, *asked)
    assert code == 0, err
    assert f"left {folder}/onnx/model.onnx (onnx), which is of this model" in out
    assert f"wrote {folder}/onnx/model_quantized.onnx" in out and f"wrote {folder}/onnx/model.onnx" not in out
    both = contents(folder)
    assert before.items() <= both.items() and both.keys() - before.keys() == {"model_quantized.onnx"}
    formats = json.loads((folder / "report.json").read_text())["formats"]
    assert set(formats) == {"onnx", "onnx-int8"}

    (folder / "onnx" / "model.onnx").unlink()
    code, out, err = compress(capsys, *asked, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["formats"]) == ["onnx"]
    assert found["left"]["onnx-int8"]["files"] == ["onnx/model_quantized.onnx"]
    assert 0 < found["left"]["onnx-int8"]["difference"] < 1
    after = contents(folder)
    assert after["model_quantized.onnx"] == both["model_quantized.onnx"] and after.keys() == both.keys()
    assert set(json.loads((folder / "report.json").read_text())["formats"]) == {"onnx", "onnx-int8"}


@pytest.mark.slow
def test_files_of_another_model_are_not_left_in_silence(capsys, folder, vit_a, tmp_path):
    assert compress(capsys, "export", vit_a, "-o", tmp_path / "other")[0] == 0
    for change in (lambda path: shutil.copy(tmp_path / "other" / "onnx" / "model.onnx", path),
                   lambda path: path.write_bytes(b"no graph")):  # fmt: skip
        change(folder / "onnx" / "model.onnx")
        before = contents(folder)
        code, out, err = compress(capsys, "export", folder)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert "exists already, but is not of this model: replace it with --force" in err
        assert contents(folder) == before
    assert compress(capsys, "export", folder, "--force")[0] == 0
    assert contents(folder) != before


@pytest.mark.slow
def test_an_int8_file_is_left_only_if_a_report_says_whose_it_is(capsys, folder, image_folder):
    """How far it is from the model does not tell: that of a teacher is as near as the student's own."""
    int8 = ("export", folder, "--formats", "onnx-int8", "--data", image_folder)
    assert compress(capsys, *int8)[0] == 0
    code, out, _ = compress(capsys, *int8)
    assert code == 0 and "which is of this model" in out
    report = json.loads((folder / "report.json").read_text())
    for change in ({"student": {**report["student"], "fingerprint": "0" * 64}}, {"formats": {}}):
        (folder / "report.json").write_text(json.dumps({**report, **change}))
        code, _, err = compress(capsys, *int8)
        assert code == 2 and "no report.json says that it is of this model: replace it with --force" in err


@pytest.mark.slow
def test_a_format_that_is_there_in_part_is_named(capsys, folder):
    model = folder / "onnx" / "model.onnx"
    model.rename(folder / "onnx" / "encoder_model.onnx")
    code, _, err = compress(capsys, "export", folder)
    assert code == 2 and "encoder_model.onnx exists already, and model.onnx of the same format does not" in err

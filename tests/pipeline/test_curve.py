"""The curve of widths: pilots are scored as the run scores its student, and a folder's page shows them if asked."""

from __future__ import annotations

import json
import shutil

import pytest
from command import compress


@pytest.fixture
def output(finished_run, tmp_path):
    folder = tmp_path / "student"
    shutil.copytree(finished_run[0], folder)
    return folder


def plan(capsys, *arguments):
    code, out, err = compress(capsys, "plan", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.slow
def test_every_width_is_scored_and_the_page_of_a_folder_shows_it(capsys, vit_a, vit_b, image_folder, output):
    widths = "0.75,0.5,0.49"
    flags = ("--data", image_folder, "--samples", 12, "--curve", widths, "--curve-into", output)
    curve = plan(capsys, vit_a, vit_b, *flags)["curve"]
    assert [row["name"] for row in curve["rows"]] == ["a", "b", "ensemble", "width 0.5", "width 0.75"]
    assert [row["width"] for row in curve["rows"]] == [None, None, None, 0.5, 0.75]
    assert all(0 <= row["accuracy"] <= 1 and row["kl"] >= 0 for row in curve["rows"])
    parameters = [row["parameters"] for row in curve["rows"]]
    assert parameters[3] < parameters[4] < parameters[0] and curve["calibration"] == 12
    report = json.loads((output / "report.json").read_text())
    assert report["curve"] == curve
    page = (output / "report.html").read_text()
    assert 'id="curve"' in page and "width 0.75" in page and "12 samples without a finetune" in page


@pytest.mark.slow
def test_the_terminal_shows_the_curve_and_an_edited_page_stays(capsys, vit_a, image_folder, output):
    (output / "report.html").write_text("mine")
    flags = ("--data", image_folder, "--samples", 12, "--curve", "0.5", "--curve-into", output)
    code, out, err = compress(capsys, "plan", vit_a, *flags)
    assert (output / "report.html").read_text() == "mine" and "curve" in json.loads(
        (output / "report.json").read_text()
    )
    assert "report.html was edited" in err and "--html" in err
    assert code == 0, err
    assert "width 0.5" in out and "12 samples without a finetune" in " ".join(out.split())
    assert "no weights were read" not in out


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--data", "DATA"], "--data is of pilots: add --curve"),
        (["--curve-into", "x"], "--curve-into is of pilots"),
        (["--curve", "0.5"], "needs samples: add --data"),
        (["--curve", "0.5,x", "--data", "DATA"], "a list of widths"),
        (["--curve", "", "--data", "DATA"], "a list of widths"),
        (["--curve", "0", "--data", "DATA"], "above 0 and at most 1"),
        (["--curve", "nan", "--data", "DATA"], "above 0 and at most 1"),
        (["--curve", "1.5", "--data", "DATA"], "above 0 and at most 1"),
        (["--curve", ",".join(["0.5"] * 9), "--data", "DATA"], "1 to 8 widths"),
        (["--curve", "0.01", "--data", "DATA"], "width"),
        (["--curve", "0.5", "--data", "DATA", "--curve-into", "NONE"], "no report.json"),
    ],
)
def test_what_cannot_be_a_curve_is_said_before_weights_are_read(
    capsys, monkeypatch, vit_a, image_folder, tmp_path, flags, said
):
    from compressor.pipeline import curve

    monkeypatch.setattr(curve, "load_ensemble", lambda *_: pytest.fail("weights were read"))
    places = {"DATA": image_folder, "NONE": tmp_path}
    code, out, err = compress(capsys, "plan", vit_a, *(places.get(flag, flag) for flag in flags))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err

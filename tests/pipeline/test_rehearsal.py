"""What would fail when a folder is written fails before weights are read: these models have none."""

from __future__ import annotations

import json

import pytest
from command import compress
from tiny_text import save_text_model

from compressor.anatomy import layer_fields
from compressor.export.file_kinds import ENCODER_DECODERS
from compressor.pipeline import landscape
from compressor.testing.tiny_configs import tiny_config


def refused(capsys, *arguments):
    code, out, err = compress(capsys, *arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1 and "this is a bug" not in err, err
    assert "no weights" not in err, "the weights were looked for first"
    return err


def without_weights(folder):
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def decoder(tmp_path):
    return without_weights(save_text_model(tmp_path / "decoder", "decoder"))


@pytest.mark.parametrize("command", ["plan", "fuse"])
def test_a_config_that_the_depth_leaves_broken(capsys, tmp_path, monkeypatch, command):
    monkeypatch.setattr(layer_fields, "_set_stages", lambda *arguments: None)
    (tmp_path / "teacher").mkdir()
    tiny_config("dinov2", num_hidden_layers=3).save_pretrained(tmp_path / "teacher")
    output = () if command == "plan" else ("-o", tmp_path / "student")
    line = refused(capsys, command, "--depth", 2, tmp_path / "teacher", *output)
    assert "saved and loaded again" in line and "out_features" in line
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize("command", ["export", "finetune"])
def test_generation_settings_that_cannot_be_written(capsys, decoder, tmp_path, command):
    (decoder / "generation_config.json").write_text(json.dumps({"max_new_tokens": -1}))
    (tmp_path / "data").mkdir()
    more = ("-t", decoder, "--data", tmp_path / "data") if command == "finetune" else ()
    line = refused(capsys, command, decoder, *more, "-o", tmp_path / "out")
    assert "could not be written" in line and "max_new_tokens" in line


@pytest.mark.parametrize("command", ["export", "fuse"])
def test_a_tokenizer_that_cannot_be_read(capsys, decoder, tmp_path, command):
    (decoder / "tokenizer.json").write_text("{")
    assert "preprocessor" in refused(capsys, command, decoder, "-o", tmp_path / "out")


def test_an_export_of_a_kind_without_files(capsys, tmp_path, monkeypatch):
    monkeypatch.delitem(ENCODER_DECODERS, "text-classification")
    config = tiny_config("bart", num_labels=3)
    config.architectures = ["BartForSequenceClassification"]
    config.save_pretrained(tmp_path / "model")
    assert "is not supported" in refused(capsys, "export", tmp_path / "model", "-o", tmp_path / "out")


def test_an_anchor_that_cannot_be_built(capsys, decoder, tmp_path):
    anchor = save_text_model(tmp_path / "anchor", "decoder")
    values = json.loads((anchor / "config.json").read_text())
    (anchor / "config.json").write_text(json.dumps({**values, "n_head": 3}))
    assert f"the config of {anchor}" in refused(capsys, "fuse", decoder, "--anchor", anchor, "-o", tmp_path / "out")


@pytest.mark.parametrize(("command", "draw"), [("landscape", "draw_plane"), ("interpolate", "draw_curves")])
def test_a_picture_that_cannot_be_drawn(capsys, decoder, tmp_path, monkeypatch, command, draw):
    def fail(scores, path):
        raise RuntimeError("no font")

    monkeypatch.setattr(landscape, draw, fail)
    (tmp_path / "data").mkdir()
    models = [decoder] * (3 if command == "landscape" else 2)
    line = refused(capsys, command, *models, "--data", tmp_path / "data", "-o", tmp_path / "out.svg")
    assert "cannot be drawn: no font" in line


@pytest.mark.parametrize(("draw", "suffix"), [(landscape.draw_plane, ".svg"), (landscape.draw_curves, ".png")])
def test_a_picture_of_made_up_scores_is_drawn(draw, suffix):
    landscape.rehearse_picture(draw, suffix, ["a$", "b^", "c"])

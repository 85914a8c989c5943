"""Weights that nothing can be computed with, and files that change: told in one line, and no NaN is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from command import compress
from tiny import save_vit

WIDE = "vit.encoder.layer.1.intermediate.dense.weight"


def spoilt(folder, target, spoil):
    """A copy of a model whose stored weights, by name, `spoil` has changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(file).items()}
    spoil(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return target


def fill(name, value):
    def spoil(weights):
        weights[name].view(-1)[0] = value

    return spoil


def scale(factor):
    def spoil(weights):
        for value in weights.values():
            value *= factor

    return spoil


BROKEN = {
    "nan": (fill(WIDE, float("nan")), "layers.1.mlp.fc1.weight"),
    "infinity": (fill(WIDE, float("inf")), "layers.1.mlp.fc1.weight"),
    "one 1e30": (fill(WIDE, 1e30), "layers.1.mlp.fc1.weight"),
    "all times 1e6": (scale(1e6), "vit.layers.0"),
    "all times 1e12": (scale(1e12), "vit.layers.0"),
}


def commands(broken, sound, data):
    quick = ("--data", data, "--no-onnx", "--no-finetune")
    return {
        "fuse": ("fuse", broken, sound, *quick),
        "vanilla": ("fuse", sound, broken, "--width", "1", "--preset", "vanilla", *quick),
        "no data": ("fuse", broken, sound, "--no-onnx"),
        "anchor": ("fuse", sound, "--anchor", broken, *quick),
        "teacher of a finetune": ("finetune", sound, "-t", broken, "--data", data, "--no-onnx"),
        "student of a finetune": ("finetune", broken, "-t", sound, "--data", data, "--no-onnx"),
        "evaluate": ("evaluate", sound, broken, "--data", data),
        "bench": ("bench", broken),
        "export": ("export", broken, "-o", "exported"),
    }


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_weights_are_refused_with_teacher_and_place(
    capsys, tmp_path, monkeypatch, vit_a, vit_b, image_folder, kind
):
    monkeypatch.chdir(tmp_path)
    spoil, place = BROKEN[kind]
    broken = spoilt(vit_a, tmp_path / "broken", spoil)
    before = sorted(tmp_path.rglob("*"))
    for name, arguments in commands(broken, vit_b, image_folder).items():
        code, out, err = compress(capsys, *arguments)
        assert (code, out) == (2, ""), (name, err)
        assert err.startswith("error: ") and err.count("\n") == 1 and "bug" not in err, (name, err)
        assert str(broken) in err and place in err, (name, err)
        assert sorted(tmp_path.rglob("*")) == before, name


def test_activations_that_only_calibration_data_shows_are_refused_by_layer(vit_a, monkeypatch):
    """Weights that a random sample passes through, and whose activations leave float32 on the data."""
    import torch

    from compressor import fuse
    from compressor.errors import UserError
    from compressor.models.load import load_teacher

    model = load_teacher(str(vit_a)).model
    layer = model.get_submodule("vit.layers.1")

    def burst(module, arguments, output):
        return output * 1e20 if arguments[0].shape[0] > 2 else output

    layer.register_forward_hook(burst)
    batches = [{"pixel_values": torch.randn(4, 3, 16, 16)} for _ in range(2)]
    with pytest.raises(UserError, match=r"nothing can be computed with .*vit\.layers\.1"):
        fuse([model], width=0.5, calibration=batches)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_json_does_not_have_is_written(value):
    from compressor.errors import UserError
    from compressor.utils.strict_json import json_text

    with pytest.raises(UserError, match=r"table\.1\.kl"):
        json_text({"table": [{"kl": 1.0}, {"kl": value}]})


def test_a_report_of_a_former_version_with_infinity_is_read(tmp_path):
    from compressor.pipeline.output.documents import read_report

    (tmp_path / "report.json").write_text('{"table": [], "value": Infinity, "other": NaN}')
    assert read_report(tmp_path) == {"table": [], "value": None, "other": None}


def test_every_json_file_of_a_run_is_strict(capsys, tmp_path, vit_a, vit_b, image_folder):
    quick = ("--data", image_folder, "--no-onnx", "--no-latency", "--steps", "2", "--samples", "8")
    code, _, err = compress(capsys, "fuse", vit_a, vit_b, *quick, "-o", tmp_path / "student")
    assert code == 0, err

    def refuse(constant):
        raise AssertionError(constant)

    for file in (tmp_path / "student").rglob("*.json"):
        json.loads(file.read_text(), parse_constant=refuse)


def test_weights_that_came_out_broken_are_not_written(tmp_path, vit_a):
    import torch

    from compressor.errors import UserError
    from compressor.models.folder.save import save_student
    from compressor.models.folder.weights import load_model

    model = load_model(vit_a)
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] = float("nan")
    with pytest.raises(UserError, match="the student"):
        save_student(tmp_path / "student", model)
    assert not (tmp_path / "student").exists()


# Files that change


def test_a_loaded_model_stays_what_was_read(tmp_path):
    """Overwritten in place the file would change the model; cut, it would end the process."""
    from compressor.models.folder.save import fingerprint
    from compressor.models.load import load_teacher

    folder = save_vit(tmp_path / "teacher", seed=5)
    teacher = load_teacher(str(folder))
    file = folder / "model.safetensors"
    with open(file, "r+b") as opened:
        opened.seek(2000)
        opened.write(os.urandom(file.stat().st_size - 2000))
    assert fingerprint(teacher.model) == teacher.fingerprint
    os.truncate(file, 0)
    assert fingerprint(teacher.model) == teacher.fingerprint


def test_shared_weights_stay_shared(bert, tmp_path):
    from tiny_text import save_text_model

    from compressor.models.folder.weights import load_model

    save_text_model(tmp_path / "masked", "masked")
    model = load_model(tmp_path / "masked")
    names = dict(model.named_parameters(remove_duplicate=False))
    tied = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is tied
    assert sum(value is tied for value in names.values()) == 2


@pytest.mark.parametrize("change", ["written", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, change):
    from transformers import ViTForImageClassification

    from compressor.errors import UserError
    from compressor.models.folder.weights import load_model

    folder = save_vit(tmp_path / "teacher", seed=5)
    file, other = folder / "model.safetensors", tmp_path / "other"
    shutil.copy(file, other)
    read = ViTForImageClassification.from_pretrained.__func__

    def disturbed(cls, *arguments, **options):
        result = read(cls, *arguments, **options)
        if change == "written":
            with open(file, "r+b") as opened:
                opened.write(opened.read(1) or b"x")
        elif change == "replaced":
            os.replace(other, file)
        else:
            file.unlink()
        return result

    monkeypatch.setattr(ViTForImageClassification, "from_pretrained", classmethod(disturbed))
    with pytest.raises(UserError, match=r"model\.safetensors changed while it was read"):
        load_model(folder)


def test_a_model_loads_from_several_files(tmp_path, vit_a):
    from compressor.models.folder.save import fingerprint
    from compressor.models.folder.weights import load_model

    load_model(vit_a).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list(Path(tmp_path, "parts").glob("*.safetensors"))) > 1
    assert fingerprint(tmp_path / "parts") == fingerprint(vit_a)

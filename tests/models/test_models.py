"""Names to teachers, refusals in one line, outputs whole or not at all, and the built-in teachers."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import save_bert, save_vit
from tiny_text import config_of
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig

from compressor import recipe as recipes
from compressor.errors import UnsupportedError, UserError
from compressor.models import builtin, resolve
from compressor.models.builtin import builtin_config, builtin_data, builtin_folder, digits, ensure_builtin
from compressor.models.compatibility import check_compatible, check_compatible_configs
from compressor.models.configs.reading import model_class
from compressor.models.folder.save import fingerprint, save_student
from compressor.models.folder.weights import load_model
from compressor.models.load import load_teacher
from compressor.models.resolve import load_config
from compressor.report.card import render_card
from compressor.utils.files import atomic_directory, check_output


def refusal(function, *arguments, kind=UserError, **options):
    """The one line that a call is refused with."""
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    line = str(caught.value)
    assert line and "\n" not in line
    return line


@pytest.fixture
def broken(vit_a, tmp_path):
    """A copy of `vit_a` to break."""
    return shutil.copytree(vit_a, tmp_path / "broken")


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Names


def test_a_folder_wins_over_a_builtin_name(vit_a, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve.resolve("vit-a").kind == "builtin"
    shutil.copytree(vit_a, tmp_path / "vit-a")
    assert resolve.resolve("vit-a").kind == "folder"
    assert resolve.resolve(str(vit_a)).location == str(vit_a)


def test_an_unknown_name_lists_what_was_tried():
    line = refusal(resolve.resolve, "nobody/nothing")
    assert "no such folder" in line and "vit-a, vit-b" in line and "Hub" in line
    assert "no valid Hub id" in refusal(resolve.resolve, "./no/such/folder")
    assert "nobody/nothing" in refusal(load_config, "nobody/nothing")
    assert "nobody/nothing" in refusal(load_teacher, "nobody/nothing")


def test_a_hub_id_is_looked_up_once_and_a_cached_copy_serves_offline(vit_a, monkeypatch):
    class Hub:
        def model_info(self, name, revision, timeout):
            assert revision is None
            assert timeout <= 30

    monkeypatch.setattr(resolve, "HfApi", Hub)
    found = resolve.resolve("someone/model")
    assert (found.kind, found.location) == ("hub", "someone/model")
    monkeypatch.undo()
    monkeypatch.setattr(resolve, "try_to_load_from_cache", lambda name, file, revision: str(vit_a / file))
    found = resolve.resolve("someone/model")
    assert (found.kind, found.location) == ("hub", str(vit_a))
    assert load_teacher("someone/model").fingerprint == fingerprint(vit_a)


def test_a_file_is_no_model(vit_a):
    assert "is a file" in refusal(resolve.resolve, str(vit_a / "config.json"))


def test_config_without_weights(vit_a, tmp_path):
    shutil.copy(vit_a / "config.json", tmp_path)
    assert load_config(str(tmp_path)).hidden_size == 32


# Loading


def test_teacher_is_frozen_float32_and_exact(vit_a):
    teacher = load_teacher(str(vit_a))
    assert teacher.model.dtype == torch.float32 and not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert teacher.config is teacher.model.config and teacher.processor is not None
    stored, loaded = load_file(vit_a / "model.safetensors"), teacher.model.state_dict()
    assert torch.equal(stored["classifier.weight"], loaded["classifier.weight"])
    assert teacher.model.config._attn_implementation == "sdpa"
    assert load_teacher(str(vit_a), attn_implementation="eager").model.config._attn_implementation == "eager"


def test_half_precision_weights_become_float32(vit_a, tmp_path):
    save_student(tmp_path, load_model(vit_a).half())
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}


def test_loading_is_silent(vit_a, capfd):
    load_teacher(str(vit_a))
    assert capfd.readouterr() == ("", "")


def test_a_refused_load_is_silent(broken, capfd):
    edit_config(broken, hidden_size=16)
    refusal(load_model, broken)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_preprocessor_has_no_processor(broken):
    (broken / "preprocessor_config.json").unlink()
    assert load_teacher(str(broken)).processor is None


def test_text_teacher_has_a_tokenizer(bert):
    teacher = load_teacher(str(bert))
    assert teacher.processor("good film")["input_ids"] == [2, 4]


def test_unknown_device(vit_a):
    assert "device 'nonsense'" in refusal(load_teacher, str(vit_a), device="nonsense")


def truncate(path):
    path.write_bytes(path.read_bytes()[:3000])


def poison(path):
    weights = load_file(path)
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})


def drop_classifier(path):
    weights = load_file(path)
    del weights["classifier.weight"], weights["classifier.bias"]
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "action", "words"),
    [
        ("config.json", Path.unlink, ["no config.json"]),
        ("config.json", lambda path: path.write_text("{"), ["config.json", "not JSON"]),
        ("config.json", lambda path: path.write_bytes(b"\xff\xfe"), ["config.json", "not JSON"]),
        ("config.json", lambda path: path.write_text("[1]"), ["no model_type"]),
        ("config.json", lambda path: path.write_text("{}"), ["no model_type"]),
        ("config.json", lambda path: edit_config(path.parent, model_type="wizard"), ["'wizard'", "not known"]),
        ("config.json", lambda path: edit_config(path.parent, hidden_size="wide"), ["hidden_size"]),
        ("config.json", lambda path: edit_config(path.parent, architectures=["MyViT"]), ["MyViT"]),
        ("config.json", lambda path: edit_config(path.parent, architectures=None), ["architecture"]),
        ("config.json", lambda path: edit_config(path.parent, architectures=["MyModel"]), ["no code of its folder"]),
        ("config.json", lambda path: edit_config(path.parent, hidden_size=16), ["does not match", "stored", "config"]),
        ("config.json", lambda path: edit_config(path.parent, num_attention_heads=5), ["broken"]),
        ("config.json", lambda path: edit_config(path.parent, patch_size=0), ["broken"]),
        ("config.json", lambda path: edit_config(path.parent, num_hidden_layers=3), ["missing", "and 14 more"]),
        ("config.json", lambda path: edit_config(path.parent, num_hidden_layers=1), ["left over", "layers.1"]),
        ("model.safetensors", Path.unlink, ["no weights"]),
        ("model.safetensors", lambda path: path.rename(path.with_name("pytorch_model.bin")), ["pickled"]),
        ("model.safetensors", truncate, ["cannot read the weights"]),
        ("model.safetensors", lambda path: path.write_bytes(b""), ["cannot read the weights"]),
        ("model.safetensors", poison, ["classifier.bias", "NaN"]),
        ("model.safetensors", drop_classifier, ["missing classifier.bias, classifier.weight"]),
        ("preprocessor_config.json", lambda path: path.write_text("{"), ["preprocessor"]),
    ],
)
def test_broken_folders_are_refused_in_one_line(broken, file, action, words):
    action(broken / file)
    line = refusal(load_teacher, str(broken))
    assert all(word in line for word in words), line


def save_pretraining(folder, architecture):
    """A BERT as it is published: pooler, both heads of its pretraining, and the position ids of older releases."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertForPreTraining

    config = config_of("masked")
    torch.manual_seed(0)
    BertForPreTraining(config).save_pretrained(folder)
    edit_config(folder, architectures=[architecture])
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertModel"])
def test_weights_of_other_heads_are_left_out_with_a_note(tmp_path, architecture):
    folder = save_pretraining(tmp_path / "m", architecture)
    teacher = load_teacher(str(folder))
    assert type(teacher.model).__name__ == architecture
    (note,) = teacher.notes
    assert architecture in note and "does not use" in note


def test_weights_that_a_head_needs_are_still_refused(tmp_path):
    line = refusal(load_model, save_pretraining(tmp_path / "m", "BertForSequenceClassification"))
    assert "missing classifier" in line and "left over" not in line


@pytest.mark.parametrize(
    "extra",
    ["bert.encoder.layer.2.output.dense.weight", "bert.encoder.adapter.weight", "bert.extra.weight",
     "cls.predictions.transform.dense.scale", "bert.embeddings.scale"],
)  # fmt: skip
def test_weights_that_the_body_has_no_place_for_are_refused(tmp_path, extra):
    import torch
    from safetensors.torch import load_file, save_file

    folder = save_pretraining(tmp_path / "m", "BertForMaskedLM")
    weights = load_file(folder / "model.safetensors") | {extra: torch.zeros(3)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    line = refusal(load_model, folder)
    assert "left over" in line and extra.rpartition(".")[2] in line


def test_a_missing_shard_is_refused(vit_a, tmp_path):
    load_model(vit_a).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()
    assert "cannot read the weights" in refusal(load_model, tmp_path)


def test_model_class_is_the_named_one(vit_a):
    assert model_class(load_config(str(vit_a))).__name__ == "ViTForImageClassification"
    refusal(model_class, ViTConfig(architectures=["PretrainedConfigModel"]), kind=UnsupportedError)


# Which teachers go together


@pytest.fixture
def pair(vit_a):
    """Refusal of `vit_a` with another folder, by configs alone and loaded."""

    def refuse(other, kind=UserError, configs=True):
        line = refusal(check_compatible, [load_teacher(str(vit_a)), load_teacher(str(other))], kind=kind)
        if configs:
            named = [(str(folder), load_config(str(folder))) for folder in (vit_a, other)]
            assert refusal(check_compatible_configs, named, kind=kind) == line
        assert str(vit_a) in line and str(other) in line
        return line

    return refuse


def test_seeds_and_widths_may_differ(vit_a, vit_b, vit_wide):
    check_compatible([load_teacher(str(folder)) for folder in (vit_a, vit_b, vit_wide)])
    check_compatible([load_teacher(str(vit_a))])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ("cat", "dog")}, ["differ in classes", "has ant, bee, which", "--classes union"]),
        ({"classes": ("dog", "cat", "ant", "owl")}, ["differ in classes", "bee", "owl", "--classes union"]),
        ({"image_size": 32}, ["image size", "16×16", "32×32"]),
        ({"num_channels": 1, "mean": (0.5,)}, ["channels", "3", "1"]),
        ({"patch_size": 4}, ["number of patches", "4", "16"]),
        ({"hidden_act": "relu"}, ["activation", "gelu", "relu"]),
    ],
)
def test_what_differs_is_named(pair, tmp_path, options, words):
    line = pair(save_vit(tmp_path / "other", **options))
    assert all(word in line for word in words), line


def test_depths_may_differ(vit_a, tmp_path):
    deep = save_vit(tmp_path / "deep", layers=3)
    check_compatible([load_teacher(str(folder)) for folder in (vit_a, deep)])
    check_compatible_configs([(str(folder), load_config(str(folder))) for folder in (vit_a, deep)])


def test_model_types_and_tasks_that_differ(pair, bert, broken, tmp_path):
    assert "model type" in pair(bert)
    edit_config(broken, architectures=["ViTForMaskedImageModeling"])
    named = [(name, load_config(name)) for name in (str(bert), str(broken))]
    assert "model type" in refusal(check_compatible_configs, named)
    headless = json.loads((bert / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(headless))
    named = [(str(bert), load_config(str(bert))), (str(tmp_path), load_config(str(tmp_path)))]
    assert "task" in refusal(check_compatible_configs, named)


def test_preprocessors_that_differ(pair, tmp_path):
    other = save_vit(tmp_path / "other", mean=(0.5, 0.5, 0.4))
    assert "image_mean" in pair(other, configs=False)
    (other / "preprocessor_config.json").unlink()
    assert "no preprocessor" in pair(other, configs=False)


def test_preprocessor_settings_without_effect_do_not_count(vit_a, vit_b, tmp_path):
    folders = []
    for index, (folder, size) in enumerate(((vit_a, 16), (vit_b, 99))):
        copy = shutil.copytree(folder, tmp_path / str(index))
        settings = json.loads((copy / "preprocessor_config.json").read_text())
        settings |= {"do_resize": False, "size": {"height": size, "width": size}}
        (copy / "preprocessor_config.json").write_text(json.dumps(settings))
        folders.append(copy)
    check_compatible([load_teacher(str(folder)) for folder in folders])


def test_parameters_that_differ(pair, tmp_path):
    assert "k_proj.bias" in pair(save_vit(tmp_path / "other", qkv_bias=False), configs=False)


def test_vocabularies_and_tokenizers_that_differ(bert, tmp_path):
    first = load_teacher(str(bert))
    shuffled = load_teacher(str(save_bert(tmp_path / "shuffled", words=("bad", "good", "film", "plot", "the"))))
    line = refusal(check_compatible, [first, shuffled])
    assert "tokenizers" in line and "'bad'" in line
    larger = load_teacher(str(save_bert(tmp_path / "larger", words=("good", "bad", "film", "plot", "the", "a"))))
    assert "vocabulary size" in refusal(check_compatible, [first, larger])
    cased = load_teacher(str(save_bert(tmp_path / "cased")))
    check_compatible([first, cased])
    cased.processor(["good", "bad film"], padding=True, truncation=True)
    check_compatible([first, cased])
    from tokenizers import normalizers

    cased.processor.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert "split text differently" in refusal(check_compatible, [first, cased])


# Saving


def test_fingerprint_survives_saving_and_sees_every_change(vit_a, vit_b, bert, tmp_path):
    for index, folder in enumerate((vit_a, bert)):
        model = load_model(folder)
        save_student(tmp_path / str(index), model)
        assert fingerprint(model) == fingerprint(folder) == fingerprint(tmp_path / str(index))
    assert fingerprint(vit_a) != fingerprint(vit_b)
    model = load_model(vit_a)
    before = fingerprint(model)
    model.classifier.bias.data[0] += 1e-6
    assert fingerprint(model) != before
    model = load_model(vit_a)
    model.config.layer_norm_eps = 1e-5
    assert fingerprint(model) != before


def test_fingerprint_of_a_fresh_model_is_that_of_its_copy(vit_a, tmp_path):
    torch.manual_seed(3)
    model = model_class(load_config(str(vit_a)))(ViTConfig.from_pretrained(vit_a))
    save_student(tmp_path, model)
    assert fingerprint(model) == fingerprint(tmp_path)


def test_saved_student_loads_with_plain_transformers(vit_a, tmp_path, capfd):
    teacher = load_teacher(str(vit_a))
    save_student(tmp_path, teacher.model, teacher.processor)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.glob("*.bin")) and (tmp_path / "model.safetensors").exists()
    plain = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(Image.new("RGB", (20, 30)), return_tensors="pt")
    assert torch.equal(plain(**inputs).logits, teacher.model(**inputs).logits)


# Staging


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_staged_output_appears_whole(tmp_path):
    output = tmp_path / "deep" / "out"
    with atomic_directory(output) as folder:
        (folder / "file").write_text("new")
        assert not output.exists() and folder.parent.parent == output.parent
    assert contents(tmp_path) == ["deep", "deep/out", "deep/out/file"]
    umask = os.umask(0)
    os.umask(umask)
    assert output.stat().st_mode & 0o777 == 0o777 & ~umask


def anything(folder):
    """Lets staging replace any folder."""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("replaceable", [None, anything])
def test_an_interrupted_run_leaves_nothing_and_loses_nothing(tmp_path, error, replaceable):
    output = tmp_path / "out"
    if replaceable:
        output.mkdir()
        (output / "file").write_text("old")
    before = contents(tmp_path)
    with pytest.raises(error), atomic_directory(output, replaceable) as folder:
        (folder / "file").write_text("half")
        raise error
    assert contents(tmp_path) == before
    assert not replaceable or (output / "file").read_text() == "old"


def test_force_replaces_at_the_very_end(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "stale").write_text("old")
    with atomic_directory(output, anything) as folder:
        assert (output / "stale").exists()
        (folder / "file").write_text("new")
    assert contents(tmp_path) == ["out", "out/file"]


def test_outputs_that_are_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    assert "--force" in refusal(check_output, tmp_path / "there")
    assert "--force" in refusal(check_output, tmp_path / "file")
    assert "not a folder" in refusal(check_output, tmp_path / "file", anything)
    assert "not a folder" in refusal(check_output, tmp_path / "file" / "below")
    monkeypatch.chdir(tmp_path / "there")
    assert "working folder" in refusal(check_output, ".", anything)
    assert "working folder" in refusal(check_output, tmp_path, anything)
    with pytest.raises(UserError), atomic_directory(tmp_path / "there"):
        pytest.fail("work was started")


def test_a_finished_result_is_kept_when_the_output_appeared_meanwhile(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(UserError, match="kept in") as caught, atomic_directory(output) as folder:
        (folder / "file").write_text("new")
        output.mkdir()
        (output / "other").write_text("theirs")
    assert (output / "other").read_text() == "theirs"
    kept = Path(str(caught.value).rsplit("kept in ", 1)[1])
    assert (kept / "file").read_text() == "new"


# Built-in teachers


def test_builtin_config_needs_no_training(quick_builtin):
    assert load_config("vit-a").to_dict() == builtin_config("vit-a").to_dict()
    assert not builtin_folder("vit-a").exists()
    assert builtin_data("vit-a") == "digits"
    assert "vit-a, vit-b" in refusal(ensure_builtin, "vit-z")


def test_builtin_is_trained_once_and_deterministically(quick_builtin, monkeypatch, tmp_path):
    heard = []
    folder = ensure_builtin("vit-a", lambda fraction, message: heard.append((fraction, message)))
    assert heard[0][0] == 0 and heard[-1][0] == 1 and all("vit-a" in message for _, message in heard)
    assert ensure_builtin("vit-a", lambda *_: pytest.fail("trained again")) == folder
    first = load_teacher("vit-a")
    assert first.source.kind == "builtin" and first.config.id2label[3] == "3"
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "elsewhere"))
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    again = load_teacher("vit-a")
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers were disturbed"
    assert again.fingerprint == first.fingerprint and again.source.location != first.source.location
    assert load_teacher("vit-b").fingerprint != first.fingerprint
    check_compatible([first, load_teacher("vit-b")])


def test_builtin_config_is_that_of_the_trained_one(quick_builtin):
    made = load_teacher("vit-b").config
    for key, value in builtin_config("vit-b").to_dict().items():
        if key not in ("dtype", "_name_or_path"):
            assert made.to_dict()[key] == value, key


def test_builtin_teachers_see_mostly_their_own_classes():
    """Of every other class two images, in about a twentieth of the draws; together they see all ten."""
    labels = torch.from_numpy(digits("train")[1])
    for training in builtin.BUILTIN.values():
        drawn = torch.cat(list(builtin._batches(labels, replace(training, steps=50))))
        own = torch.isin(labels[drawn], torch.tensor(training.classes))
        assert 0.93 < float(own.double().mean()) < 0.97
        assert 0 < len(drawn[~own].unique()) <= 2 * 5 and len(drawn[own].unique()) > 600
    assert sorted(number for training in builtin.BUILTIN.values() for number in training.classes) == list(range(10))


def test_another_training_is_another_folder(quick_builtin, monkeypatch):
    before = builtin_folder("vit-a")
    changed = quick_builtin | {"vit-a": replace(quick_builtin["vit-a"], learning_rate=1e-3)}
    monkeypatch.setattr(builtin, "BUILTIN", changed)
    assert builtin_folder("vit-a") != before


def test_an_interrupted_training_is_not_cached(quick_builtin):
    def interrupt(fraction, message):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_builtin("vit-a", interrupt)
    assert not builtin_folder("vit-a").exists()
    assert ensure_builtin("vit-a").exists()


def test_an_unwritable_cache_is_one_line(quick_builtin, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file"))
    assert "COMPRESSOR_CACHE" in refusal(ensure_builtin, "vit-a")


def test_builtin_processor_takes_grey_and_colour_alike(quick_builtin):
    processor = load_teacher("vit-a").processor
    grey = Image.fromarray(digits("test")[0][0])
    results = [processor(images=[image], return_tensors="pt")["pixel_values"] for image in (grey, grey.convert("RGB"))]
    assert results[0].shape == (1, 3, 8, 8) and torch.equal(*results)
    assert torch.allclose(results[0][0, 0], torch.from_numpy(np.asarray(grey, np.float32)) / 127.5 - 1, atol=1e-6)


def test_digits_are_split_once_and_for_all():
    (train, train_labels), (test, test_labels) = digits("train"), digits("test")
    assert train.shape == (1300, 8, 8) and test.shape == (497, 8, 8) and train.dtype == np.uint8
    assert np.array_equal(test, digits("test")[0])
    counts = np.bincount(test_labels) / np.bincount(train_labels)
    assert counts.max() < 1.1 * counts.min()
    assert train.max() == 255


# Model card


def test_card_holds_the_recipe_the_table_and_how_to_load():
    recipe = recipes.build_recipe({"teachers": ["some/where/vit-a", "vit-b"], "data": {"source": "digits"}})
    row = {"name": "student|x", "accuracy": 0.9123, "kl": 0.01234, "parameters": 60_000, "macs": 2_500_000}
    row |= {"bytes": 250_000, "torch_p50_ms": 1.234, "torch_p95_ms": 1.5, "ort_p50_ms": None, "ort_p95_ms": None}
    report = {
        "version": "0.1.0",
        "teachers": [{"name": "vit-b", "fingerprint": "ab" * 32}],
        "fusion": {
            "choices": {
                "ridge": 0.001,
                "weights": {"vit-a": 0.5, "vit-b": 0.5},
                "refit": True,
                "shapes": [{"candidate": "2 heads of 8, x", "held_out_kl": 0.25}],
            },
            "head": {"module": "classifier", "least_squares_kl": 0.02, "kl": 0.01},
        },
        "latency": {"length": None, "models": {"vit-b": {"torch": {"threads": 3}}}},
        "finetune": None,
        "table": [row, row | {"name": "vit-b", "accuracy": None}],
        "onnx": {
            "file": "onnx/one.onnx",
            "largest_difference": 1.5e-6,
            "files": {"onnx/one.onnx": {}, "onnx/two.onnx": {}},
        },
        "seconds": {"fuse": 1.25},
        "environment": {"torch": "2.13"},
    }
    card = render_card(recipe, report)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "image-classification"
    assert yaml.safe_load(front)["library_name"] == "transformers"
    embedded = body.split("```yaml\n")[1].split("```")[0]
    assert recipes.build_recipe(yaml.safe_load(embedded)) == recipe
    assert "AutoModelForImageClassification.from_pretrained" in body and "compress run recipe.yaml" in body
    assert "| student\\|x | 91.2 % | 0.012 | 0.060 | 0.003 | 0.250 | 1.23 / 1.50 |" in body
    assert "| → vit-b | – |" in body and "ORT" not in body and "→ the result; KL" in body
    assert "ridge: 0.001" in body and "weights in the ensemble: vit-a 0.5, vit-b 0.5" in body and "refit: yes" in body
    assert "- shapes tried: 2 heads of 8, x 0.25 (held-out KL)\n" in body and "'candidate'" not in body
    assert "- head: classifier, fitted to the ensemble's probabilities: held-out KL 0.01, 0.02 by least" in body
    assert "with 3 threads on the machine above" in body
    assert "- files: onnx/one.onnx, onnx/two.onnx\n" in body and "- file:" not in body
    assert "largest difference: 1.5e-06" in body and "fuse: 1.25" in body
    assert "vit-a + vit-b at width 0.5" in body and "abababab" in body and "without any finetuning" in body
    kept = {"judged": [[0, 0.25], [2, 0.5]], "best_step": 0, "validation_samples": 9}
    told = "It has the weights of step 0, the best of 2 evaluations (loss 0.2500 on 9 held-out training samples)."
    assert told in render_card(recipe, report | {"finetune": kept}) and told not in body
    one = {"length": None, "models": {"vit-b": {"torch": {"threads": 1}}}}
    assert "with 1 thread on the machine above" in render_card(recipe, report | {"latency": one})


def test_card_of_an_empty_report_and_of_text():
    recipe = recipes.build_recipe({"teachers": ["a"]})
    assert "not measured" in render_card(recipe, {})
    card = render_card(recipe, {}, task="text-classification")
    assert "AutoModelForSequenceClassification" in card and "AutoTokenizer" in card


def test_every_task_has_a_card():
    from compressor.models.tasks.table import TASKS

    recipe = recipes.build_recipe({"teachers": ["a"]})
    loads = ("from_pretrained", "SentenceTransformer(")
    assert all(any(name in render_card(recipe, {}, task=task) for name in loads) for task in TASKS)

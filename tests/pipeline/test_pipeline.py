"""From a recipe to a finished folder."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from command import tiny_recipe


def fused(teachers, data, output, **sections):
    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe

    return run_recipe(build_recipe(tiny_recipe(teachers, data, output, **sections)))


def weights(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def same_weights(one, other):
    import torch

    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def finished(finished_run):
    """The folder and the report of a whole run, everything on."""
    output, report = finished_run
    return output, copy.deepcopy(report)


def test_the_folder_is_complete(finished):
    output, _ = finished
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "config.json",
        "model.safetensors",
        "onnx/config.json",
        "onnx/model.onnx",
        "onnx/preprocessor_config.json",
        "preprocessor_config.json",
        "recipe.yaml",
        "report.html",
        "report.json",
        "transport.npz",
    }
    assert [path.name for path in output.parent.iterdir()] == ["student"]


def test_it_loads_with_transformers_alone(finished, vit_a):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    output, _ = finished
    model = AutoModelForImageClassification.from_pretrained(output)
    assert model.config.hidden_size == 16
    assert AutoImageProcessor.from_pretrained(output) is not None


def test_the_table_has_every_contender(finished):
    _, report = finished
    rows = report["table"]
    assert [row["name"] for row in rows] == ["a", "b", "ensemble", "one-shot", "finetuned"]
    for row in rows:
        other = {field for name in ("f1", "perplexity", "spearman", "rmse") for field in (name, f"{name}_error")}
        assert {key for key, value in row.items() if value is None} == other, row
        assert 0 <= row["accuracy"] <= 1
    teacher, ensemble, student = rows[0], rows[2], rows[4]
    assert ensemble["kl"] == 0
    assert ensemble["parameters"] == 2 * teacher["parameters"]
    assert student["macs"] < teacher["macs"] / 2
    assert student["bytes"] < teacher["bytes"]


def test_the_report_says_how_it_came_about(finished, vit_a):
    from compressor.models.folder.save import fingerprint

    output, report = finished
    assert json.loads((output / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["teachers"][0]["fingerprint"] == fingerprint(vit_a)
    assert report["student"]["fingerprint"] == fingerprint(output)
    assert report["target"]["fields"]["hidden_size"] == {"teacher": 32, "student": 16}
    assert report["fusion"]["choices"]["why"]
    assert report["finetune"]["steps"] == 4
    assert report["onnx"]["largest_relative_difference"] <= report["onnx"]["tolerance"]
    assert {"load", "data", "evaluate", "fuse", "finetune", "export", "latency", "total"} <= report["seconds"].keys()
    assert report["peak_memory_bytes"] > 1e6
    assert report["environment"]["torch"]
    assert report["evaluation"].pop("data") == f"{report['recipe']['data']['source']} (test)"
    error = pytest.approx(0.14, abs=0.02)
    assert report["evaluation"] == {
        "samples": 12,
        "labelled": 12,
        "accuracy_error": error,
        "majority": 0.25,
        "dataset": None,
    }


def test_the_card_shows_table_and_recipe(finished):
    output, _ = finished
    card = (output / "README.md").read_text()
    assert "| ensemble |" in card
    assert "compress run recipe.yaml" in card
    assert "from_pretrained" in card


def test_the_recipe_of_a_folder_makes_the_same_weights(finished, tmp_path):
    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import read_recipe

    output, _ = finished
    recipe = read_recipe(output / "recipe.yaml")
    quick = {"bench": {"latency": False}, "export": {"onnx": False}, "output": str(tmp_path / "again")}
    run_recipe(recipe.model_validate({**recipe.model_dump(), **quick}))
    assert same_weights(output, tmp_path / "again")


def test_another_seed_makes_other_weights(finished, vit_a, vit_b, image_folder, tmp_path):
    output, _ = finished
    fused([vit_a, vit_b], image_folder, tmp_path / "other", seed=1)
    assert not same_weights(output, tmp_path / "other")


def test_teachers_are_not_changed(finished, vit_a):
    from compressor.models.folder.save import fingerprint

    _, report = finished
    assert report["teachers"][0]["fingerprint"] == fingerprint(vit_a)


def test_without_a_finetune_the_student_is_the_fused_one(vit_a, vit_b, image_folder, tmp_path):
    report = fused([vit_a, vit_b], image_folder, tmp_path / "s", finetune={"enabled": False})
    assert [row["name"] for row in report["table"]] == ["a", "b", "ensemble", "one-shot"]
    assert report["finetune"] is None
    assert report["onnx"] is None
    assert report["table"][0]["torch_p50_ms"] is None


def test_one_teacher_is_enough(vit_a, image_folder, tmp_path):
    report = fused([vit_a], image_folder, tmp_path / "s")
    assert [row["name"] for row in report["table"]] == ["a", "one-shot", "finetuned"]


def test_teachers_of_different_widths(vit_a, vit_wide, image_folder, tmp_path):
    report = fused([vit_a, vit_wide], image_folder, tmp_path / "s", finetune={"enabled": False})
    assert report["target"]["fields"]["hidden_size"] == {"teacher": 48, "student": 24}


def test_without_data_the_weights_alone_are_aligned(vit_a, vit_b, tmp_path):
    report = fused([vit_a, vit_b], None, tmp_path / "s")
    assert report["finetune"] is None
    assert report["evaluation"] is None
    assert {row["accuracy"] for row in report["table"]} == {None}
    assert (tmp_path / "s" / "model.safetensors").exists()


def test_a_student_that_is_there_can_be_finetuned(finished, vit_a, vit_b, image_folder, tmp_path):
    output, _ = finished
    report = fused([vit_a, vit_b], image_folder, tmp_path / "tuned", student=str(output))
    assert [row["name"] for row in report["table"]] == ["a", "b", "ensemble", "as given", "finetuned"]
    assert report["fusion"] is None
    assert report["student"]["given"]["name"] == str(output)
    assert not same_weights(output, tmp_path / "tuned")


def test_an_anchor_gives_the_shape(finished, vit_a, vit_b, image_folder, tmp_path):
    output, _ = finished
    report = fused(
        [vit_a, vit_b], image_folder, tmp_path / "s", fusion={"anchor": str(output)}, finetune={"enabled": False}
    )
    assert report["target"]["fields"]["hidden_size"]["student"] == 16


@pytest.mark.slow
def test_built_in_teachers_bring_their_data(quick_builtin, tmp_path):
    report = fused(
        ["vit-a", "vit-b"],
        None,
        tmp_path / "s",
        calibration={"samples": 64, "batch_size": 16},
        evaluation={"samples": 50},
    )
    assert report["recipe"]["data"]["source"] == "digits"
    assert report["evaluation"]["samples"] == 50
    assert report["finetune"]["steps"] == 4


def test_force_replaces_only_at_the_end(fused_run, vit_b, image_folder, tmp_path, monkeypatch):
    from compressor.pipeline.run import output as run_output
    from compressor.pipeline.run import run as job
    from compressor.recipe import build_recipe

    output = Path(shutil.copytree(fused_run, tmp_path / "s"))
    recipe = build_recipe(tiny_recipe([vit_b], image_folder, output, finetune={"enabled": False}))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_output, "write_documents", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job.run_recipe(recipe, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert same_weights(output, fused_run)
    job.run_recipe(recipe, force=True)
    assert not same_weights(output, fused_run)
    assert (output / "report.json").exists()


def test_progress_names_the_stages(vit_a, image_folder, tmp_path):
    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe

    told = []
    recipe = build_recipe(tiny_recipe([vit_a], image_folder, tmp_path / "s"))
    run_recipe(recipe, progress=lambda stage, share, line: told.append((stage, share)))
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["check", "load", "data", "evaluate", "fuse", "finetune", "write"]
    assert ("finetune", 1.0) in told
    assert all(share is None or 0 <= share <= 1 for _, share in told)


def test_models_of_one_shape_share_a_timing(vit_a, vit_b, vit_wide):
    from compressor.models.folder.weights import load_model
    from compressor.pipeline.timing import TimedModel, time_contenders

    models = {name: load_model(folder) for name, folder in {"a": vit_a, "b": vit_b, "wide": vit_wide}.items()}
    contenders = [TimedModel(name, (model,)) for name, model in models.items()]
    timings = time_contenders(contenders, batch_size=1, seconds=0.005, thread_count=1)
    assert timings["a"] is timings["b"] or timings["a"] == timings["b"]
    assert timings["a"].torch != timings["wide"].torch
    assert timings["a"].torch.iterations >= 10


def test_training_samples_come_in_batches_as_one_by_one(vit_a, image_folder):
    import torch

    from compressor.data.batches import Samples
    from compressor.data.sources import open_split
    from compressor.models.load import load_teacher
    from compressor.recipe import DataOptions

    teacher = load_teacher(str(vit_a))
    split = open_split(DataOptions(source=str(image_folder)), "train", id2label=teacher.config.id2label)
    samples = Samples(split, teacher.processor, teacher.spec, labels=True, cache_bytes=1 << 20)
    batch = samples.__getitems__([5, 0, 5])
    for sample, index in zip(batch, (5, 0, 5), strict=True):
        assert torch.equal(sample["pixel_values"], samples[index]["pixel_values"])
        assert sample["labels"] == int(split.labels[index])


def test_a_plan_reads_no_weights(vit_a, tmp_path):
    import shutil

    from compressor.pipeline.plan import plan_student

    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(vit_a / "config.json", bare)
    found = plan_student([str(bare)], 0.5, narrowing="fewer-heads")
    assert found["target"]["fields"]["num_attention_heads"] == {"teacher": 4, "student": 2}
    assert found["others"] == []
    assert 0.2 < found["student"]["macs"] / found["teachers"][0]["macs"] < 0.4


def test_a_plan_and_the_student_agree(finished, vit_a, vit_b):
    from compressor.pipeline.plan import plan_student

    _, report = finished
    planned = plan_student([str(vit_a), str(vit_b)], 0.5)
    # The plan says of the first shape alone where it runs fast.
    made = {key: value for key, value in report["target"].items() if key != "runs_fast_in"}
    assert made in [planned["target"], *planned["others"]]
    for key in ("parameters", "macs"):
        assert planned["student"][key] == report["table"][-1][key]


def test_disk_errors_of_all_libraries_are_known():
    import errno

    from compressor.utils.files import is_disk_full

    assert is_disk_full(OSError(errno.ENOSPC, "x"))
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = OSError(errno.EDQUOT, "x")
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.EACCES, "x"))


def test_report_is_updated_whole(tmp_path):
    from compressor.pipeline.output.documents import read_report, update_report

    (tmp_path / "report.json").write_text(json.dumps({"table": [], "onnx": None}))
    assert update_report(tmp_path, {"onnx": {"bytes": 1}})
    assert read_report(tmp_path) == {"table": [], "onnx": {"bytes": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]

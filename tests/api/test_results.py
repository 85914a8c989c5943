"""Results show themselves in five lines, and save what the command writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from test_golden import report_keys

import compressor
from compressor.api.scores import ModelScore
from compressor.models.folder.save import fingerprint

#: Options of a quick fusion.
QUICK = {"residual": "slice", "inner": "slice", "narrowing": "fewer-heads", "polish": 0}


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(8, 3, 16, 16, generator=generator)} for _ in range(2)]


@pytest.fixture(scope="module")
def named(vit_a, image_folder):
    """The fusion of `fused_run`, in Python."""
    return compressor.fuse(str(vit_a), 0.5, image_folder, samples=16, batch_size=4)


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_what_is_saved_is_what_the_command_writes(named, fused_run, image_folder, tmp_path):
    folder = named.save(tmp_path / "student", data=image_folder)
    assert files_of(folder) == files_of(fused_run)
    assert fingerprint(folder) == fingerprint(fused_run) == fingerprint(named.model)
    assert report_keys(folder) == report_keys(fused_run)
    mine, theirs = (json.loads((path / "report.json").read_text()) for path in (folder, fused_run))
    for key in ("teachers", "student", "target", "table", "warnings", "notes", "evaluation", "task"):
        assert mine[key] == theirs[key], key
    recipes = [yaml.safe_load((path / "recipe.yaml").read_text()) for path in (folder, fused_run)]
    for recipe in recipes:
        del recipe["output"], recipe["finetune"], recipe["bench"]
    assert recipes[0] == recipes[1]
    # The card bears the folder's name.
    cards = [
        (path / "README.md").read_text().split("## Choices")[0].replace(f"name: {path.name}\n", "")
        for path in (folder, fused_run)
    ]
    assert cards[0] == cards[1]


def test_a_folder_is_replaced_only_by_force(named, tmp_path):
    folder = named.save(tmp_path / "student")
    with pytest.raises(compressor.UserError, match="exists already"):
        named.save(folder)
    named.save(folder, force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(compressor.UserError, match="not the output of a former run"):
        named.save(tmp_path / "mine", force=True)
    with pytest.raises(compressor.UserError, match=r"unknown export format 'onix'"):
        named.save(tmp_path / "other", formats="onix")
    assert not (tmp_path / "other").exists()
    for nothing in (None, "", 3):
        with pytest.raises(compressor.UserError, match="names no folder"):
            named.save(nothing)


@pytest.mark.slow
def test_files_for_onnx_runtime_are_saved_if_asked(named, tmp_path):
    folder = named.save(tmp_path / "student", onnx=True)
    assert "onnx/model.onnx" in files_of(folder)
    assert json.loads((folder / "report.json").read_text())["onnx"]["largest_relative_difference"] < 1e-3


def test_models_in_memory_are_saved_with_their_preprocessor_and_a_note(vit_a, vit_b, batches, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    teachers = [AutoModelForImageClassification.from_pretrained(path) for path in (vit_a, vit_b)]
    before = [fingerprint(teacher) for teacher in teachers]
    result = compressor.fuse(teachers, 0.5, batches, **QUICK)
    folder = result.save(tmp_path / "student")
    assert AutoImageProcessor.from_pretrained(folder).size["height"] == 16
    report = json.loads((folder / "report.json").read_text())
    assert "model 0 and model 1 (models in memory) and 2 dicts of tensors (data in memory)" in report["notes"][0]
    assert [teacher["fingerprint"] for teacher in report["teachers"]] == before
    assert before == [fingerprint(teacher) for teacher in teachers]


@pytest.mark.slow
def test_a_finetune_goes_on_from_a_fusion(vit_a, vit_b, image_folder, batches, tmp_path):
    result = compressor.fuse([vit_a, vit_b], 0.5, batches, **QUICK)
    before = fingerprint(result.model)
    tuned = compressor.finetune(result, data=image_folder, steps=2, batch_size=4, losses={"hidden": 0.5})
    assert tuned.model is result.model and fingerprint(tuned.model) != before
    assert (tuned.report.steps, len(repr(tuned).splitlines())) == (2, 5)
    folder = tuned.save(tmp_path / "student", data=image_folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["finetune"]["steps"] == 2 and report["fusion"]["choices"]["residual"]
    assert [row["name"] for row in report["table"]] == ["a", "b", "ensemble", "finetuned"]
    assert report["recipe"]["finetune"]["losses"]["hidden"]["weight"] == 0.5
    twice = compressor.finetune(tuned, data=image_folder, steps=1, batch_size=4)
    assert twice.fused is result and any("more than once" in line for line in twice.origin.remarks)
    again = compressor.finetune(str(folder), [vit_a, vit_b], image_folder, steps=1, batch_size=4, seed=3)
    assert json.loads((again.save(tmp_path / "again") / "report.json").read_text())["student"]["given"]["name"]
    labels = compressor.finetune(folder, [], image_folder, steps=1, batch_size=4, distil_weight=0, label_weight=1)
    assert labels.report.steps == 1


def test_presets_give_way_to_keywords(vit_a, batches, monkeypatch):
    recipes = []

    def stop(recipe, *rest):
        recipes.append(recipe)
        raise compressor.UserError("enough")

    monkeypatch.setattr("compressor.api.fuse._run", stop)
    for keywords in ({}, {"width": 0.5, "refit": True, "alignment": {"cost": "cosine"}}):
        with pytest.raises(compressor.UserError, match="enough"):
            compressor.fuse(str(vit_a), calibration=batches, preset="paper", **keywords)
    first, second = recipes
    assert (first.width, first.fusion.refit, first.calibration.samples) == (1.0, False, 256)
    assert (second.width, second.fusion.refit, second.fusion.residual) == (0.5, True, "averaging")
    assert (second.fusion.alignment.cost, second.fusion.alignment.solver) == ("cosine", "sinkhorn")


def test_an_interrupted_run_of_the_command_is_not_lost(named, tmp_path):
    from compressor.pipeline.run.initial_student import InitialStudent
    from compressor.pipeline.run.state import RunState
    from compressor.utils.files import work_folder

    folder = tmp_path / "student"
    RunState(work_folder(folder), {"teachers": []}).save(InitialStudent(named.model, {}))
    with pytest.raises(compressor.UserError, match="holds an interrupted run"):
        named.save(folder)
    assert work_folder(folder).exists() and not folder.exists()


def test_a_result_shows_itself_in_five_lines(named):
    lines = repr(named).splitlines()
    assert len(lines) == 5 and all(len(line) <= 160 for line in lines)
    assert lines[0].startswith("FusedStudent: ViTForImageClassification") and "hidden_size 32 → 16" in lines[1]
    page = named._repr_html_()
    assert page.startswith("<table>") and page.count("<tr>") == 4 and "32 → 16" in page


def test_a_report_has_attributes_and_is_the_dict_that_it_was(named):
    report = named.report
    values = report.to_dict()
    assert type(values) is dict and json.loads(json.dumps(values)) == json.loads(json.dumps(report))
    assert all(getattr(report, name) == values[name] == report[name] for name in values)
    assert set(values) == set(type(report).__annotations__)
    values["choice"].clear()
    assert report.choice["residual"]
    with pytest.raises(AttributeError, match="choice"):
        _ = report.chioce


def test_every_score_of_a_task_can_be_read_by_name(named, image_folder):
    row = compressor.evaluate(named, image_folder).to_dict()["rows"][0]
    row |= {"accuracy": None, "f1": 0.4, "miou": 0.5, "miou_error": 0.1, "map": None}
    score = ModelScore.of_row(row)
    assert score.scores == {"miou": 0.5, "f1": 0.4} and score.errors["miou"] == 0.1


def test_results_are_taken_where_models_are(named, vit_a, image_folder):
    scores = compressor.evaluate([vit_a, named, named.model], image_folder, ensemble=True)
    assert scores[1].accuracy == scores["model 2"].accuracy and len(scores) == 4
    assert "mean of the 3 above" in repr(scores) and "<pre>" in scores._repr_html_()
    assert scores.to_dict()["rows"][0]["name"] == scores[0].name
    assert (
        scores[0].scores["accuracy"] == scores[0].accuracy and scores[0].errors["accuracy"] == scores[0].accuracy_error
    )
    with pytest.raises(KeyError, match="model 1"):
        scores["modell 1"]
    plan = compressor.plan([named, vit_a], 0.5)
    assert plan.teachers[1]["parameters"] > plan.student["parameters"] and "certificate" in repr(plan)
    assert compressor.inspect(named).residual.size == 16


@pytest.mark.slow
def test_results_are_timed_and_exported_as_models_are(named, vit_a, image_folder, forked_benchmark, tmp_path):
    timed = compressor.bench([named, vit_a], batch_size=1, seconds=0.01, backends="torch", threads=1)
    assert [row.name for row in timed] == ["model 0", "a"] and all(row.torch_p50_ms > 0 for row in timed)
    assert timed.to_dict()["settings"]["batch_sizes"] == (1,) and "p50 ms" in repr(timed)
    pictures = [{"image": str(path)} for path in sorted((image_folder / "train").rglob("*.png"))]
    exported = compressor.export(named, tmp_path / "files", formats=["onnx", "onnx-int8"], data=pictures)
    assert [path.name for path in exported.files] == ["model.onnx", "model_quantized.onnx"]
    assert all(path.is_file() for path in exported.files)
    assert (tmp_path / "files" / "onnx" / "preprocessor_config.json").exists()
    # What is there of this model stays.
    before = {path: path.stat().st_mtime_ns for path in exported.files}
    compressor.export(named, tmp_path / "files")
    assert {path: path.stat().st_mtime_ns for path in exported.files} == before

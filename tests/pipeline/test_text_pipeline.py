"""From two text models and a file to a finished folder, for every task."""

from __future__ import annotations

import json

import pytest
from command import compress, tiny_recipe
from tiny_text import save_plain, save_sentences, save_text_model, save_translations, save_words

QUICK = ("--samples", 16, "--steps", 3, "--batch-size", 8, "--no-latency", "--no-onnx")

#: Kind of model -> its data, the class that loads it, the figures that its table has.
CASES = {
    "classifier": ("sst", "AutoModelForSequenceClassification", {"accuracy", "f1"}),
    "tagger": ("words.jsonl", "AutoModelForTokenClassification", {"accuracy", "f1"}),
    "masked": ("plain.txt", "AutoModelForMaskedLM", {"perplexity"}),
    "decoder": ("plain.txt", "AutoModelForCausalLM", {"perplexity"}),
    "t5": ("pairs.jsonl", "AutoModelForSeq2SeqLM", {"perplexity"}),
}
FIGURES = {"accuracy", "f1", "perplexity"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    for kind in (*CASES, "features"):
        for seed in (0, 1):
            save_text_model(root / f"{kind}{seed}", kind, seed=seed)
    save_sentences(root / "sst")
    save_words(root / "words.jsonl")
    save_plain(root / "plain.txt")
    save_translations(root / "pairs.jsonl")
    return root


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("tagger", "masked", "t5") else ()) for kind in CASES]
)
def test_every_task_from_two_models_and_a_file_to_a_folder(capsys, root, tmp_path, kind):
    import torch
    import transformers

    source, auto, figures = CASES[kind]
    teachers, output = [root / f"{kind}{seed}" for seed in (0, 1)], tmp_path / "student"
    # As evaluate --ensemble mixes, to which the figures are compared below.
    mean = ("--weights", "equal", "--mixture", "probabilities")
    code, out, err = compress(capsys, "fuse", *teachers, "--data", root / source, "-o", output, *QUICK, *mean)
    assert (code, err) == (0, ""), err
    assert f"written to {output}" in out and f"measured on {root / source}" in out
    report = json.loads((output / "report.json").read_text())
    rows = report["table"]
    assert [row["name"] for row in rows] == [f"{kind}0", f"{kind}1", "ensemble", "one-shot", "finetuned"]
    for row in rows:
        assert {figure for figure in FIGURES if row[figure] is not None} == figures
        assert row["kl"] >= 0 and row["macs"] > 0
        assert row["perplexity"] is None or row["perplexity"] > 1
    assert rows[-1]["parameters"] < 0.6 * rows[0]["parameters"]
    assert report["finetune"]["steps"] == 3 and report["evaluation"]["labelled"] > 0
    assert ("lower is better" in out) == (figures == {"perplexity"})

    model = getattr(transformers, auto).from_pretrained(output)
    words = transformers.AutoTokenizer.from_pretrained(output)
    inputs = words("the good film", return_tensors="pt", return_token_type_ids=False)
    more = {"decoder_input_ids": inputs["input_ids"]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        assert model(**inputs, **more).logits.isfinite().all()
    card = (output / "README.md").read_text()
    assert auto in card and "AutoTokenizer" in card
    assert ("a lower perplexity is better" in card) == (figures == {"perplexity"})

    code, out, err = compress(capsys, "evaluate", output, teachers[0], "--data", root / source, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["rows"]
    for figure in figures:
        assert found[0][figure] == pytest.approx(rows[-1][figure], rel=1e-5)
        assert found[1][figure] == pytest.approx(rows[0][figure], rel=1e-5)

    code, out, err = compress(capsys, "evaluate", *teachers, "--ensemble", "--data", root / source, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["rows"]
    assert [row["name"] for row in found] == [*(row["name"] for row in rows[:2]), "mean of the 2 above"]
    for one, row in zip(found, rows, strict=False):
        assert one["parameters"] == row["parameters"]
        assert all(one[figure] == pytest.approx(row[figure], rel=1e-5) for figure in figures)


def test_finetuning_a_student_that_is_there(capsys, root, tmp_path):
    options = ("--steps", 3, "--batch-size", 4, "--max-length", 8, "--no-latency", "--no-onnx", "-o", tmp_path / "s")
    data = ("--data", root / "plain.txt")
    code, _, err = compress(capsys, "finetune", root / "decoder0", "-t", root / "decoder1", *data, *options)
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert [row["name"] for row in report["table"]] == ["decoder1", "as given", "finetuned"]
    assert report["table"][2]["kl"] < report["table"][1]["kl"]
    assert report["recipe"]["data"]["max_length"] == 8
    assert report["evaluation"]["data"].endswith("plain.txt, last 10 %")


@pytest.mark.slow
def test_the_recipe_of_a_text_model_makes_the_same_weights(capsys, root, tmp_path):
    from safetensors.torch import load_file

    assert (
        compress(capsys, "fuse", root / "masked0", "--data", root / "plain.txt", "-o", tmp_path / "a", *QUICK)[0] == 0
    )
    assert compress(capsys, "run", tmp_path / "a" / "recipe.yaml", "-o", tmp_path / "b")[0] == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.slow
def test_labels_may_be_learnt_from(capsys, root, tmp_path):
    for kind, source in (("classifier", "sst"), ("decoder", "plain.txt")):
        data = ("--data", root / source, "--label-weight", 0.5, "-o", tmp_path / kind)
        assert compress(capsys, "fuse", root / f"{kind}0", *data, *QUICK)[0] == 0


def test_latency_and_macs_are_of_a_stated_length(root, tmp_path):
    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe
    from compressor.report.summary import summary_lines

    quick = {"bench": {"latency": True}, "finetune": {"enabled": False}}
    report = run_recipe(build_recipe(tiny_recipe([root / "decoder0"], root / "plain.txt", tmp_path / "s", **quick)))
    # As many as the model has positions.
    assert report["latency"]["length"] == report["length"] == 32
    assert any("batches of 2 × 32 tokens" in line for line in summary_lines(report))
    assert "texts of 32 tokens" in (tmp_path / "s" / "README.md").read_text()


def test_models_without_a_head_are_fused_only(capsys, root, tmp_path):
    code, out, err = compress(
        capsys,
        "fuse",
        root / "features0",
        root / "features1",
        "--data",
        root / "plain.txt",
        "-o",
        tmp_path / "s",
        *QUICK,
    )
    assert code == 0, err
    assert err == "note: models without a head are fused only: there is no answer to finetune on or to measure\n"
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert report["finetune"] is None and report["evaluation"] is None
    assert "next: compress inspect" in out
    # They cannot be finetuned either, so nothing would read the maps.
    assert not (tmp_path / "s" / "transport.npz").exists()


def test_teachers_of_different_depths(capsys, root, tmp_path):
    deep = save_text_model(tmp_path / "deep", "classifier", seed=2, num_hidden_layers=4)
    arguments = ("--depth", 3, "--data", root / "sst", "-o", tmp_path / "s", "--no-finetune", *QUICK)
    code, _, err = compress(capsys, "fuse", root / "classifier0", deep, *arguments)
    assert (code, err) == (0, "note: with --no-finetune nothing comes of --steps, --batch-size\n")
    assert json.loads((tmp_path / "s" / "config.json").read_text())["num_hidden_layers"] == 3
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert report["target"]["asked_depth"] == 3
    assert report["table"][-1]["macs"] < 0.5 * report["table"][1]["macs"]
    assert "depth 3 asked" in compress(capsys, "report", tmp_path / "s")[1]
    assert "and depth 3" in (tmp_path / "s" / "README.md").read_text()


@pytest.mark.slow
def test_encoder_decoders_are_timed_in_torch_only(capsys, root, forked_benchmark):
    code, out, err = compress(capsys, "bench", root / "t50", "--seconds", 0.01, "--batch-size", 1, "--length", 8)
    assert code == 0
    assert "ORT ms" not in out and "torch ms" in out
    said = "T5ForConditionalGeneration has no ONNX file of the whole model"
    assert err == f"note: t50 was not timed in ONNX Runtime: {said}\n"


def test_the_files_with_past_can_be_left_out(root, tmp_path, monkeypatch):
    from compressor.cli.options import to_recipe
    from compressor.pipeline import deliver
    from compressor.pipeline.stages import StageReporter

    caches = []
    monkeypatch.setattr(
        deliver, "write_formats", lambda names, model, folder, given, **rest: caches.append(given.cache) or {}
    )
    for given in (False, True):
        recipe = to_recipe({"--teachers": ("a",), "--no-cache": given})
        deliver.export_and_verify(recipe.export, None, tmp_path, StageReporter())
    assert caches == [True, False]


def test_a_teacher_that_cannot_be_exported_costs_a_column_not_the_run(root, tmp_path, monkeypatch):
    from compressor.errors import UnsupportedError
    from compressor.models.load import load_teacher
    from compressor.pipeline import run_timing
    from compressor.pipeline.scores.evaluation import EvaluatedModel
    from compressor.pipeline.stages import StageReporter
    from compressor.recipe import build_recipe

    def refuse(*arguments):
        raise UnsupportedError("torch cannot export it")

    monkeypatch.setattr(run_timing, "export_to_time", refuse)
    recipe = build_recipe(tiny_recipe([root / "decoder0"], None, tmp_path / "s", bench={"latency": True}))
    subject = EvaluatedModel("decoder0", (load_teacher(str(root / "decoder0")).model,), 0, None)
    timings, notes = run_timing.time_models(recipe, [subject], tmp_path, StageReporter())
    assert notes == ["latency was measured in torch only: torch cannot export it"]
    assert timings["decoder0"].torch.p50_ms > 0 and timings["decoder0"].ort is None


def test_weights_of_another_head_are_noted(capsys, root, tmp_path):
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(root / "masked0", tmp_path / "m")
    weights = load_file(folder / "model.safetensors") | {"cls.seq_relationship.bias": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, _, err = compress(capsys, "evaluate", folder, "--data", root / "plain.txt")
    assert code == 0
    assert err.startswith("note: ") and "cls.seq_relationship.bias" in err

"""From two models whose answers are no single class, and a file, to a finished folder."""

from __future__ import annotations

import json

import pytest
from command import compress
from tiny_text import config_of, sentences, tokenizer

QUICK = ("--samples", 40, "--steps", 3, "--batch-size", 8, "--no-latency", "--no-onnx")
LABELS = ("good", "bad", "film")


def save_models(root, kind):
    import torch
    from transformers import BertForSequenceClassification

    config = config_of("classifier")
    if kind == "labels":
        config.problem_type = "multi_label_classification"
    names = LABELS if kind == "labels" else ("score",)
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folders.append(root / f"{kind}{seed}")
        BertForSequenceClassification(config).eval().save_pretrained(folders[-1])
        tokenizer().save_pretrained(folders[-1])
    return folders


def save_data(folder, kind):
    folder.mkdir()
    for seed, (part, count) in enumerate({"train": 48, "test": 24}.items()):
        rows = []
        for text in sentences(count, seed):
            held = [word for word in LABELS if word in text]
            rows.append({"text": text, kind: held if kind == "labels" else len(held) - 1.5})
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def made(root):
    return {kind: (save_models(root, kind), save_data(root / f"data-{kind}", kind)) for kind in ("labels", "value")}


METRICS = {"labels": {"f1"}, "value": {"spearman", "rmse"}}


@pytest.mark.parametrize("kind", METRICS)
def test_from_two_models_and_a_file_to_a_folder(capsys, tmp_path, made, kind):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from compressor.bench.metrics import METRICS as ALL

    teachers, data = made[kind]
    output = tmp_path / "student"
    equal = ("--weights", "equal", "--mixture", "probabilities")
    code, out, err = compress(capsys, "fuse", *teachers, "--data", data, "-o", output, *QUICK, *equal)
    assert code == 0, err
    report = json.loads((output / "report.json").read_text())
    rows = report["table"]
    assert [row["name"] for row in rows] == [f"{kind}0", f"{kind}1", "ensemble", "one-shot", "finetuned"]
    for row in rows:
        assert {name for name in ALL if row.get(name) is not None} == METRICS[kind] and row["kl"] >= 0
    assert rows[2]["kl"] == pytest.approx(0, abs=1e-9) and report["differences"] is None
    assert report["mixture"]["name"] == ("values" if kind == "value" else "probabilities")
    assert all(ALL[name].title in out for name in METRICS[kind])

    # The ensemble's row is of the mean answer, computed here by hand.
    words = AutoTokenizer.from_pretrained(output)
    samples = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    inputs = words([sample["text"] for sample in samples], return_tensors="pt", padding=True)
    models = [AutoModelForSequenceClassification.from_pretrained(folder) for folder in (*teachers, output)]
    with torch.no_grad():
        first, second, student = (model(**inputs).logits for model in models)
    if kind == "value":
        mean, truth = (first + second) / 2, torch.tensor([[sample["value"]] for sample in samples])
        assert rows[2]["rmse"] == pytest.approx(float((mean - truth).square().mean().sqrt()), rel=1e-4)
        assert rows[4]["kl"] == pytest.approx(float((mean - student).square().mean() / 2), rel=1e-3)
    else:
        held = torch.tensor([[word in sample["labels"] for word in LABELS] for sample in samples])
        found = (first.sigmoid() + second.sigmoid()) / 2 > 0.5
        f1 = 2 * (found & held).sum() / (found.sum() + held.sum())
        assert rows[2]["f1"] == pytest.approx(float(f1), rel=1e-5)

    code, out, err = compress(capsys, "evaluate", output, *teachers, "--data", data, "--json")
    assert (code, err) == (0, "")
    for name in METRICS[kind]:
        assert json.loads(out)["rows"][0][name] == pytest.approx(rows[-1][name], rel=1e-5)
    card = (output / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card and "pipeline_tag: text-classification" in card


@pytest.mark.slow
@pytest.mark.parametrize("kind", METRICS)
def test_formats_are_scored_and_a_program_needs_onnxruntime_alone(capsys, tmp_path, made, kind):
    import subprocess
    import sys

    teachers, data = made[kind]
    output = tmp_path / "student"
    options = (*QUICK[:-1], "--no-finetune", "--formats", "onnx,onnx-int8")
    code, _, err = compress(capsys, "fuse", *teachers, "--data", data, "-o", output, *options)
    assert code == 0, err
    formats = json.loads((output / "report.json").read_text())["formats"]["onnx-int8"]
    assert (formats["agreement"] is None) == (kind == "value")
    assert all(formats["evaluation"][name] is not None for name in METRICS[kind])
    card = (output / "README.md").read_text()
    program = card.split("```python\n")[2].split("```")[0]
    ran = subprocess.run(
        [sys.executable, "-c", program, "the good film"], cwd=output, capture_output=True, text=True, check=True
    )
    assert (ran.stdout[0], ran.stdout.strip()[-1]) == ("[", "]") if kind == "labels" else "score" in ran.stdout


@pytest.mark.parametrize("kind", METRICS)
def test_labels_are_learned_too(capsys, tmp_path, made, kind):
    teachers, data = made[kind]
    output = tmp_path / "student"
    options = (*QUICK, "--label-weight", 0.5)
    code, _, err = compress(capsys, "fuse", *teachers, "--data", data, "-o", output, *options)
    assert code == 0, err
    report = json.loads((output / "report.json").read_text())
    assert report["finetune"]["steps"] == 3 and report["mixture"]["nll"]


def test_teachers_of_other_answers_are_refused(capsys, made):
    code, _, err = compress(capsys, "plan", made["labels"][0][0], made["value"][0][0])
    assert code == 2 and "the teachers differ in task" in err and "text-multi-label" in err


def test_python_takes_values(made):
    import torch
    from transformers import AutoModelForSequenceClassification

    import compressor

    models = [AutoModelForSequenceClassification.from_pretrained(folder) for folder in made["value"][0]]
    ids = torch.randint(6, 20, (64, 8), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(16)]
    student = compressor.fuse(models, 1.0, batches).model
    with torch.no_grad():
        mean = sum(model(**batches[0]).logits for model in models) / 2
        error = (student(**batches[0]).logits - mean).square().mean() / mean.var()
    assert error < 0.5

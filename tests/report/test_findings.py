"""What went wrong in a run is said in its warnings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import compress, tiny_recipe, write_recipe

from compressor.report import findings
from compressor.report.outcome import describe_outcome

SHIPPED = Path(findings.__file__).read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _as_shipped(monkeypatch):
    """The thresholds of the file: those of the tests are other ones."""
    for line in SHIPPED.splitlines():
        name, _, value = line.partition(" = ")
        if name.isupper() and value.replace(".", "").isdigit():
            monkeypatch.setattr(findings, name, float(value))


def row(name, **values):
    about = {"accuracy": 0.6, "accuracy_error": 0.005, "kl": 0.1, "kl_error": 0.002, "perplexity": None}
    return {"name": name, "parameters": 100, "macs": 10, "torch_p50_ms": None, "ort_p50_ms": None, **about, **values}


def report(*rows, label_weight=0.0, **values):
    """A report of two teachers, their ensemble, and what follows."""
    table = [row("a"), row("b"), row("ensemble", kl=0.0), *(rows or [row("one-shot"), row("finetuned")])]
    return {
        "table": table,
        "recipe": {"teachers": ["x/a", "x/b"], "finetune": {"label_weight": label_weight}},
        "finetune": {"best_step": None, "judged": []},
        "evaluation": {"majority": 0.1, "labelled": 10_000},
        "fusion": {"choices": {"shares": {"x/a": 0.5, "x/b": 0.5}, "weights": {"x/a": 0.5, "x/b": 0.5}}},
        **values,
    }


def test_a_good_run_has_nothing_to_be_said():
    assert findings.findings(report()) == findings.remarks(report()) == []
    assert findings.findings({"table": [row("student")], "recipe": {"teachers": ["a"]}}) == []


@pytest.mark.parametrize(
    ("before", "after", "label_weight", "said"),
    [
        ({"kl": 0.1}, {"kl": 0.15}, 0.0, "further from the ensemble (KL 0.100 before, 0.150 now, worse by 0.050 nats)"),
        ({"kl": 0.1}, {"kl": 0.104}, 0.0, "worse by 0.004 nats, within noise)"),
        ({"kl": 0.1}, {"kl": 0.101}, 0.0, None),
        ({"accuracy": 0.6}, {"accuracy": 0.5}, 1.0, "accuracy 60.0 % before, 50.0 % now, by 10.0 points)"),
        ({"accuracy": 0.6}, {"accuracy": 0.5}, 0.0, None),
        ({"accuracy": None, "perplexity": 5.0, "perplexity_error": 0.1},
         {"accuracy": None, "perplexity": 6.5, "perplexity_error": 0.1}, 1.0,
         "perplexity 5.00 before, 6.50 now, by 1.50)"),
    ],
)  # fmt: skip
def test_a_finetune_that_made_it_worse(before, after, label_weight, said):
    lines = findings.findings(report(row("one-shot", **before), row("finetuned", **after), label_weight=label_weight))
    if said is None:
        assert lines == []
    else:
        (line,) = lines
        assert said in line and "try more --steps" in line and "keep the one-shot student (--no-finetune)" in line


def test_a_finetune_that_was_not_kept():
    (line,) = findings.findings(report(finetune={"best_step": 0, "judged": [[0, 0.1], [4, 0.2]]}))
    assert line.startswith("the finetune did not help: kept the one-shot weights, the best of 2 evaluations")


@pytest.mark.parametrize(("majority", "warned"), [(0.58, False), (0.595, True), (0.7, True)])
def test_a_teacher_no_better_than_the_commonest_class(majority, warned):
    good = [row("a", accuracy=0.9), row("b"), row("ensemble"), row("one-shot"), row("finetuned")]
    lines = findings.findings(report(table=good, evaluation={"majority": majority, "labelled": 10_000}))
    assert len(lines) == warned
    if warned:
        assert "the teacher b is right in 60.0 ± 0.5 %" in lines[0] and f"in {100 * majority:.1f} %" in lines[0]


@pytest.mark.parametrize(("weight", "said"), [(0.5, "still counts"), (0, "nothing was taken")])
def test_a_teacher_of_whom_nothing_was_taken(weight, said):
    shares = {"shares": {"x/a": 1.0, "x/b": 0.0}, "weights": {"x/a": 0.5, "x/b": weight}}
    (line,) = findings.remarks(report(fusion={"choices": shares}))
    assert "of the teacher x/b" in line and said in line


def test_few_labels():
    (line,) = findings.findings(report(evaluation={"majority": 0.1, "labelled": 25}))
    assert "accuracies are of 25 labels, and the standard error is up to 10 points" in line


@pytest.mark.parametrize(("student", "level"), [(0.61, True), (0.58, False)])
def test_the_headline_knows_noise(student, level):
    line = describe_outcome(report(row("finetuned", accuracy=student)))
    assert ("level with the better teacher, within noise" in line) is level
    assert f"{100 * student:.1f} ± 0.5 % accuracy" in line


def test_the_headline_has_both_latencies():
    table = [row("a", torch_p50_ms=10.0, ort_p50_ms=9.0), row("finetuned", torch_p50_ms=5.0, ort_p50_ms=3.0)]
    line = describe_outcome(report(table=table, recipe={"teachers": ["a"]}))
    assert line.endswith("2.0 times as fast as a teacher in torch and 3.0 times in ONNX Runtime")


def test_a_run_says_it_everywhere(capsys, vit_a, vit_b, image_folder, tmp_path):
    """Random teachers, 12 evaluation samples, and calibration samples of one class, with and without labels."""
    one_class = tmp_path / "images"
    first, *_ = sorted((image_folder / "train").iterdir())
    shutil.copytree(first, one_class / "train" / first.name)
    shutil.copytree(image_folder / "test", one_class / "test")
    recipe = write_recipe(
        tmp_path / "r.yaml", tiny_recipe([vit_a, vit_b], one_class, tmp_path / "s", finetune={"enabled": False})
    )
    code, _, err = compress(capsys, "run", recipe)
    assert code == 0, err
    warnings = json.loads((tmp_path / "s" / "report.json").read_text())["warnings"]
    for said in ("few calibration samples", "the calibration samples are one class", "few evaluation samples"):
        (line,) = [line for line in warnings if line.startswith(said)]
        assert f"warning: {line}\n" in err
    again = compress(capsys, "report", tmp_path / "s")[1]
    assert all(f"warning: {line}\n" in again for line in warnings)

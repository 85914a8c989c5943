"""How predictions are mixed, from the command line to the report."""

from __future__ import annotations

import json

import pytest
import torch
from command import compress
from tiny import save_images

from compressor.fusion.mixture import collect_predictions
from compressor.models.load import load_teacher

QUICK = ("--no-onnx", "--no-latency", "--steps", "2", "--batch-size", "4")


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_labels_choose_where_there_are_any(capsys, tmp_path, vit_a, vit_b):
    data = save_images(tmp_path / "data", per_class=16)
    code, _, err = compress(
        capsys, "fuse", vit_a, vit_b, "--data", data, "--samples", "40", *QUICK, "--no-finetune", "-o", tmp_path / "s"
    )
    assert code == 0, err
    mixture = report_of(tmp_path / "s")["mixture"]
    assert "likelihood" in mixture["why"] and sum(mixture["weights"]) == pytest.approx(1)
    assert {"teacher 1", "teacher 2", "probabilities, given or equal weights"} <= set(mixture["nll"])


@pytest.mark.parametrize("command", ["fuse", "finetune"])
def test_a_named_mixture_is_that_of_teacher_student_and_score(
    capsys, tmp_path, vit_a, vit_b, image_folder, fused_run, command
):
    """The student's KL in the report is to the mean of logits, recomputed here."""
    models = ["fuse", vit_a, vit_b] if command == "fuse" else ["finetune", fused_run, "-t", vit_a, "-t", vit_b]
    code, _, err = compress(
        capsys, *models, "--data", image_folder, *QUICK, "--mixture", "logits", "--weights", "3,1", "-o", tmp_path / "s"
    )
    assert code == 0, err
    report = report_of(tmp_path / "s")
    assert report["mixture"]["name"] == "logits" and report["mixture"]["temperature"] is None
    from compressor.pipeline.data_splits import open_evaluation
    from compressor.recipe import Recipe

    teachers = [load_teacher(str(path)) for path in (vit_a, vit_b, tmp_path / "s")]
    batches = list(open_evaluation(Recipe(**report["recipe"]), teachers[0].processor, teachers[0].spec))
    a, b, student = collect_predictions([teacher.model for teacher in teachers], batches).log_probs
    target = (0.75 * a + 0.25 * b).log_softmax(-1)
    kl = float((target.exp() * (target - student)).sum(-1).mean())
    assert report["table"][-1]["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6)


def test_next_tokens_are_labels(bert):
    """Causal language models predict the next unpadded token; classifiers without labels have none."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=8)).eval()
    ids = torch.randint(11, (40, 6))
    mask = torch.ones_like(ids)
    mask[:, 4:] = 0
    found = collect_predictions([model, model], [{"input_ids": ids, "attention_mask": mask}])
    assert found.labels is not None and len(found.labels) == 40 * 3 == len(found.log_probs[0])
    torch.testing.assert_close(found.labels, ids[:, 1:4].flatten())
    assert found.samples.tolist() == [sample for sample in range(40) for _ in range(3)]
    classifier = load_teacher(str(bert)).model
    inputs = {"input_ids": ids.clamp(max=4), "attention_mask": mask}
    assert collect_predictions([classifier], [inputs]).labels is None
    few = {**inputs, "labels": torch.full((40,), -100)}
    assert collect_predictions([classifier], [few]).labels is None


@pytest.mark.parametrize("text", ["0.5", "nonsense", "-1,1", "0,0"])
def test_bad_weights_are_one_line(capsys, tmp_path, vit_a, vit_b, text):
    code, _, err = compress(capsys, "fuse", vit_a, vit_b, f"--weights={text}", "-o", tmp_path / "s")
    assert code == 2 and "weights" in err and len(err.strip().splitlines()) == 1


def test_a_residual_policy_is_compared_with_the_paper(vit_a, vit_b):
    from compressor.fusion.mixture import chooses_mixture
    from compressor.recipe import FusionOptions

    assert chooses_mixture(2, FusionOptions())
    assert not chooses_mixture(2, FusionOptions(residual="averaging"))
    assert not chooses_mixture(1, FusionOptions())
    assert not chooses_mixture(2, FusionOptions(weights="equal", mixture="logits"))

"""Images and texts embedded alike."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from compressor.anatomy import inspect_config
from compressor.anatomy.hooks import logits_of
from compressor.bench.accuracy import Tally
from compressor.ensemble.answers import ANSWERS, ensemble_predictions, mean_kl
from compressor.ensemble.pairs import batch_logits
from compressor.export.onnx import write_onnx
from compressor.fusion import fuse_models
from compressor.models.inputs import dummy_inputs
from compressor.models.tasks.table import TASKS, find_task, task_of_model

PAIRS = ANSWERS["pairs"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": 60, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 59}
IMAGE = {"image_size": 16, "patch_size": 4}


def clip(**fields):
    parts = {"text_config": TEXT | SIZES, "vision_config": IMAGE | SIZES | {"hidden_size": 40, "intermediate_size": 64}}
    return CLIPConfig(architectures=["CLIPModel"], projection_dim=24, **parts, **fields)


def siglip():
    parts = {"text_config": TEXT | SIZES | {"projection_size": 32}, "vision_config": IMAGE | SIZES}
    return SiglipConfig(architectures=["SiglipModel"], **parts)


def model_of(config, seed=0):
    torch.manual_seed(seed)
    return (CLIPModel if config.model_type == "clip" else SiglipModel)(config).eval()


@pytest.mark.parametrize("config", [clip(), siglip()], ids=["clip", "siglip"])
def test_products_of_rows_are_the_models_logits(config):
    model = model_of(config)
    assert find_task(config).name == task_of_model(model).name == "image-text"
    inputs = dummy_inputs(config, 5)
    rows = logits_of(model, inputs)
    with torch.no_grad():
        expected = model(**inputs).logits_per_image
    logits = batch_logits(rows)
    assert rows.shape[:2] == (5, 2)
    # SigLIP's constant moves no choice.
    difference = logits[:, 0] - expected
    assert (difference - difference.mean()).abs().max() < 1e-3 * expected.abs().max()
    assert torch.allclose(logits[:, 1], logits[:, 0].T)


def test_an_ensemble_has_the_mean_of_the_logits():
    first, second = torch.randn(6, 2, 4), torch.randn(6, 2, 7)
    mixed = PAIRS.mix([first, second], [3, 1])
    assert torch.allclose(batch_logits(mixed), 0.75 * batch_logits(first) + 0.25 * batch_logits(second), atol=1e-5)


def test_divergence_is_that_of_choices_within_the_batch():
    reference, rows = torch.randn(6, 2, 4), torch.randn(6, 2, 7)
    kl = PAIRS.divergence(reference, rows)
    expected, given = (batch_logits(each)[2, 1].log_softmax(-1) for each in (reference, rows))
    assert kl.shape == (6, 2) and float(kl[2, 1]) == pytest.approx(
        float((expected.exp() * (expected - given)).sum()), 1e-4
    )
    assert torch.equal(PAIRS.divergence(reference.flatten(0, 1), rows.flatten(0, 1)), kl.flatten())
    assert PAIRS.divergence(rows, rows).abs().max() < 1e-12 and PAIRS.agree(rows, rows).all()


def test_samples_of_one_text_are_as_good_as_each_other():
    texts = 5 * torch.eye(3)
    rows = torch.stack([texts[[0, 1, 1]], texts[[0, 1, 1]]], dim=1)
    same, other = (
        PAIRS.label_loss(TASKS["image-text"], rows, torch.tensor(labels), {}) for labels in ([4, 2, 2], [0, 1, 2])
    )
    # Two candidates are equally good: each has half of the probability.
    assert float(same) == pytest.approx(2 / 3 * math.log(2), abs=1e-4)
    assert float(other) == pytest.approx(float(same), abs=1e-4)
    shuffled = PAIRS.label_loss(TASKS["image-text"], rows.flip(0), torch.tensor([2, 4, 2]), {})
    assert float(shuffled) > 5


def test_scores_count_equal_texts_once():
    texts = 3 * torch.eye(8)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 6])
    rows = torch.stack([texts[labels], texts[labels]], dim=1)
    # The first image is nearest to another text; its own comes second.
    rows[0, 0] = texts[1] + 0.5 * texts[0]
    tally = Tally(TASKS["image-text"])
    tally.add(rows[:5], {}, labels[:5])
    tally.add(rows[5:], {}, labels[5:])
    score = tally.score()
    assert score.accuracy == pytest.approx(7 / 8) and score.value("recall5") == 1
    # Of the seven texts, the second is nearest to the first image, whose own text has the first image as its nearest.
    assert score.value("recall1_images") == pytest.approx(6 / 7)


def test_the_space_of_two_projections_becomes_narrower():
    anatomy = inspect_config(clip())
    writers = {name for name in anatomy.axes if "visual_projection" in name or "text_projection" in name}
    assert {anatomy.axes[name][0].parts[0].key for name in writers} == {"visual_projection"}
    assert anatomy.sensitivity["visual_projection"] > 1e-5 and not anatomy.pinned


def test_a_student_is_near_its_teachers(tmp_path):
    config = clip()
    models = [model_of(config, seed) for seed in range(2)]
    samples = [dummy_inputs(config, 16, seed=index) for index in range(4)]
    result = fuse_models([("first", models[0]), ("second", models[1])], 0.5, samples)
    student = result.model
    assert student.config.projection_dim == 24 and student.config.text_config.hidden_size == 16
    targets = [ensemble_predictions(models, [1, 1], batch) for batch in samples]
    torch.manual_seed(9)
    untrained = CLIPModel(student.config).eval()
    assert mean_kl(student, samples, targets) < mean_kl(untrained, samples, targets)
    report = write_onnx(student, tmp_path)
    assert report.files[0].outputs == ("image_embeds", "text_embeds", "logits_per_image")

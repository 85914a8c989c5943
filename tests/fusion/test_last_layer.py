"""The last layer and the head are fitted to the ensemble's predictions where layers are reconstructed."""

from __future__ import annotations

import math

import pytest
import torch
from families import batches_of, config_of, tiny_model

from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.fusion import fuse_models
from compressor.fusion.build import last_layer, layerwise_build, reconstruction
from compressor.models.inputs import dummy_inputs
from compressor.recipe import FusionOptions
from compressor.report.describe import describe_last_layer


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(reconstruction, "STEP_TOKENS", 256)
    monkeypatch.setattr(reconstruction, "EVALUATION_STEPS", 20)


def decided(family: str = "llama", count: int = 2, **fields):
    """Teachers that prefer some class."""
    config = config_of(family)
    for name, value in fields.items():
        setattr(config, name, value)
    models = [tiny_model(config, seed) for seed in range(count)]
    for model in models:
        model.get_output_embeddings().weight.data *= 8
    return models


def fused(models, steps: int = 60, **options):
    named = [(f"teacher {k}", model) for k, model in enumerate(models)]
    samples = batches_of(models[0].config, count=8, batch=64)
    plain = {"residual": "principal", "inner": "importance", "mixture": "probabilities", "narrowing": "fewer-heads"}
    return fuse_models(named, 0.5, samples, FusionOptions(polish=steps, **plain | options))


def test_new_samples_gain(monkeypatch):
    models = decided()
    new = [dummy_inputs(models[0].config, 64, 12, seed=7, dtype=torch.float64)]
    target = [ensemble_predictions(models, [0.5, 0.5], batch) for batch in new]
    near = fused(models)
    entry = near.report["last_layer"]
    assert entry["module"] == "model.layers.1" and entry["after"] < entry["before"]
    monkeypatch.setattr(layerwise_build, "reconstruct_predictions", lambda *_: None)
    far = fused(models)
    assert far.report["last_layer"] is None
    assert mean_kl(near.model, new, target) < 0.9 * mean_kl(far.model, new, target)
    earlier = [name for name, _ in far.model.named_parameters() if "layers.0" in name or "embed" in name]
    for name in earlier:
        assert torch.equal(near.model.get_parameter(name), far.model.get_parameter(name))


def test_the_mixture_is_what_it_learns():
    models = decided()
    new = [dummy_inputs(models[0].config, 64, 12, seed=7, dtype=torch.float64)]
    probabilities, logits = (fused(models, mixture=name).model for name in ("probabilities", "logits"))
    for mixing, nearer, farther in ((1.0, probabilities, logits), (math.inf, logits, probabilities)):
        target = [ensemble_predictions(models, [0.5, 0.5], batch, mixing) for batch in new]
        assert mean_kl(nearer, new, target) < mean_kl(farther, new, target)


def test_an_embedding_that_is_the_head_too_stays(monkeypatch):
    models = decided(tie_word_embeddings=True)
    near = fused(models)
    assert near.report["last_layer"]
    monkeypatch.setattr(layerwise_build, "reconstruct_predictions", lambda *_: None)
    far = fused(models)
    table = near.model.get_input_embeddings().weight
    assert table is near.model.get_output_embeddings().weight
    assert torch.equal(table, far.model.get_input_embeddings().weight)
    assert not torch.equal(near.model.model.norm.weight, far.model.model.norm.weight)


def test_a_head_that_would_take_too_long_is_left_alone(monkeypatch):
    monkeypatch.setattr(last_layer, "PREDICTION_WORK", 1)
    report = fused(decided(count=1)).report
    assert report["polished"] and report["last_layer"] is None


def test_nothing_is_fitted_unless_layers_are_reconstructed():
    assert fused(decided(count=1), steps=0).report["last_layer"] is None


def test_what_does_not_fit_the_memory_is_computed_again(monkeypatch):
    models = decided()
    kept = fused(models, steps=20).model
    monkeypatch.setattr(last_layer, "KEPT_ENTRIES", 0)
    for one, other in zip(kept.parameters(), fused(models, steps=20).model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_report_says_what_it_gained():
    entry = {"module": "model.layers.1", "before": 0.25, "after": 0.2}
    assert "0.25" in describe_last_layer(entry) and "model.layers.1" in describe_last_layer(entry)

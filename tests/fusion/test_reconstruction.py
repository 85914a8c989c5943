"""Layer-wise reconstruction: its gain on new samples, in layers of every kind, and the layers that it leaves alone."""

from __future__ import annotations

import pytest
import torch
from families import batches_of, config_of, family_params, tiny_model, widen

from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.fusion import fuse_models
from compressor.fusion.build import reconstruction
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.joint import search
from compressor.models.inputs import dummy_inputs
from compressor.recipe import FusionOptions
from compressor.report.describe import describe_reconstruction

#: Post-norm, norms behind the branches, a layer that runs twice, experts, two stacks: tiny ones with much to gain.
LACKING = ("bert", "gemma2", "albert", "mixtral", "t5")


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(reconstruction, "STEP_TOKENS", 256)
    monkeypatch.setattr(reconstruction, "EVALUATION_STEPS", 20)


@pytest.mark.slow
def test_new_samples_gain(small_steps):
    config = config_of("llama")
    models = [tiny_model(config, seed) for seed in (0, 1)]
    samples = batches_of(config, count=8, batch=64)
    new = [dummy_inputs(config, 64, 12, seed=7, dtype=torch.float64)]
    target = [ensemble_predictions(models, [0.5, 0.5], batch) for batch in new]
    far, near = (fused(models, samples, steps=steps) for steps in (0, 200))
    assert far.report["polished"] is None and near.report["polished"]
    assert all(one["after"] < one["before"] for one in near.report["polished"])
    assert mean_kl(near.model, new, target) < mean_kl(far.model, new, target)


@pytest.mark.parametrize("family", family_params())
def test_layers_of_every_kind_are_fitted_as_a_whole(family, small_steps):
    config = config_of(family)
    result = fused([tiny_model(config)], batches_of(config, batch=64), steps=20)
    polished = result.report["polished"]
    assert {one["module"] for one in polished} <= set(result.anatomy.layers)
    assert all(one["after"] < one["before"] for one in polished)
    assert polished or family not in LACKING
    for parameter in result.model.parameters():
        assert parameter.isfinite().all() and not parameter.requires_grad


def test_the_same_samples_make_the_same_steps():
    config = config_of("llama")
    whole = batches_of(config, count=4, batch=64)
    shuffled = [{name: value[start::2].flip(0) for name, value in batch.items()} for batch in whole for start in (1, 0)]
    sets = [
        CalibrationSet(batches[: -len(batches) // 4], batches[-len(batches) // 4 :]) for batches in (whole, shuffled)
    ]
    one, other = (calibration.rebatched(reconstruction.samples_per_step) for calibration in sets)
    assert one.held_out and one.train
    held = [torch.cat([batch["input_ids"] for batch in steps.held_out]) for steps in (one, other)]
    assert len(held[0]) == len(held[1]) == 64
    assert torch.equal(held[0], held[1])


def test_a_student_that_misses_nothing_is_left_alone(small_steps):
    narrow = tiny_model(config_of("llama"))
    options = FusionOptions(residual="barycentre", inner="transport", polish=50)
    result = fuse_models([("wide", widen(narrow, 1))], 0.5, batches_of(narrow.config, count=8, batch=64), options)
    assert result.report["polished"] == []


def test_few_tokens_do_not_fit_units(monkeypatch):
    monkeypatch.setattr(reconstruction, "STEP_TOKENS", 4096)
    config = config_of("llama")
    report = fused([tiny_model(config)], batches_of(config, count=8, batch=64), steps=50).report
    assert report["polished"] == []
    assert "tokens are too few to learn from: it takes 12,288" in describe_reconstruction(report)


def test_what_no_held_out_sample_gains_by_is_not_kept(small_steps, monkeypatch):
    monkeypatch.setattr(reconstruction, "LEARNING_RATES", (1e4, 1e3))
    config = config_of("llama")
    models = [tiny_model(config)]
    samples = batches_of(config, count=8, batch=64)
    plain, wild = (fused(models, samples, steps=steps) for steps in (0, 20))
    assert wild.report["polished"] == []
    for one, other in zip(plain.model.parameters(), wild.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_on_its_own_it_is_for_students_that_are_far_from_the_ensemble(small_steps, monkeypatch):
    config = config_of("llama")
    models, samples = [tiny_model(config, seed) for seed in (0, 1)], batches_of(config, count=8, batch=64)
    for model in models:
        # Random teachers hardly prefer any class, and then everybody is near.
        model.lm_head.weight.data *= 8
    monkeypatch.setattr(search, "RECONSTRUCTION_STEPS", 5)
    assert fuse_models(named(models), 0.5, samples).report["polished"] is not None
    monkeypatch.setattr(search, "SKIP_RECONSTRUCTION_KL", 1e3)
    assert fuse_models(named(models), 0.5, samples).report["polished"] is None
    assert fuse_models(named(models), 0.5, samples, FusionOptions(refit=False, polish=5)).report["polished"] is None


def test_a_student_that_is_aligned_to_an_anchor_is_reconstructed_if_asked(small_steps):
    config = config_of("llama")
    models, samples = [tiny_model(config, seed) for seed in (0, 1)], batches_of(config, count=8, batch=64)
    options = {"residual": "averaging", "weights": (1.0, 1.0)}
    assert fuse_models(named(models), 1.0, samples, FusionOptions(**options)).report["polished"] is None
    assert fuse_models(named(models), 1.0, samples, FusionOptions(**options, polish=100)).report["polished"]


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="polish"):
        FusionOptions(polish=-1)


def named(models):
    return [(f"teacher {k}", model) for k, model in enumerate(models)]


def fused(models, samples, *, steps):
    return fuse_models(
        named(models), 0.5, samples, FusionOptions(polish=steps, residual="principal", inner="importance")
    )

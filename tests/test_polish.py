"""The polish: what it gains on samples that it has not seen, where it stands alone, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from families import batches_of, config_of, tiny_model, widened

from compressor.fusion import automatic, fuse, polish
from compressor.fusion.choose import divergence, ensemble_log_probs
from compressor.fusion.samples import thinned, turns
from compressor.models.inputs import dummy_inputs
from compressor.recipe import FusionOptions

#: Units and reader in one module; in two; with an activation of the layer's, or of a module that wants the stream too;
#: in a layer that runs twice; gate and up in one matrix.
TOGETHER = ("gpt2", "bert", "opt", "bloom", "albert", "phi3")
#: Not so: their reader's output is normalised before it is added, or they are experts.
APART = ("gemma2", "mixtral")


@pytest.fixture
def small_heaps(monkeypatch):
    monkeypatch.setattr(polish, "TOKENS", 256)
    monkeypatch.setattr(polish, "LOOK", 20)


def test_new_samples_gain(small_heaps):
    config = config_of("llama")
    models = [tiny_model(config, seed) for seed in (0, 1)]
    samples = batches_of(config, count=8, batch=64)
    new = [dummy_inputs(config, 64, 12, seed=7, dtype=torch.float64)]
    target = [ensemble_log_probs(models, [0.5, 0.5], batch) for batch in new]
    far, near = (fused(models, samples, steps=steps) for steps in (0, 200))
    assert far.report["polished"] is None and near.report["polished"]
    assert all(one["after"] < one["before"] for one in near.report["polished"])
    assert divergence(near.model, new, target) < divergence(far.model, new, target)


@pytest.mark.parametrize("family", [*TOGETHER, *APART])
def test_where_hidden_units_stand_alone(family, small_heaps, monkeypatch):
    found = []
    alone = polish._alone
    monkeypatch.setattr(polish, "_alone", lambda *given: found.append(alone(*given)) or found[-1])
    config = config_of(family)
    result = fused([tiny_model(config)], batches_of(config, count=8, batch=64), steps=1)
    assert all(found)
    assert len(found) == (0 if family in APART else len(result.anatomy.layers))


def test_a_student_that_misses_nothing_is_left_alone(small_heaps):
    narrow = tiny_model(config_of("llama"))
    options = FusionOptions(residual="barycentre", inner="transport", polish=50)
    result = fuse([("wide", widened(narrow, 1))], 0.5, batches_of(narrow.config, count=8, batch=64), options)
    assert result.report["polished"] == []


def test_few_tokens_do_not_fit_units(monkeypatch):
    monkeypatch.setattr(polish, "TOKENS", 4096)
    config = config_of("llama")
    assert fused([tiny_model(config)], batches_of(config), steps=50).report["polished"] == []


def test_what_no_held_out_sample_gains_by_is_not_kept(small_heaps, monkeypatch):
    monkeypatch.setattr(polish, "RATE", 1e3)
    config = config_of("llama")
    models = [tiny_model(config)]
    samples = batches_of(config, count=8, batch=64)
    plain, wild = (fused(models, samples, steps=steps) for steps in (0, 20))
    assert wild.report["polished"] == []
    for one, other in zip(plain.model.parameters(), wild.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_on_its_own_it_is_for_students_that_are_far_from_the_ensemble(small_heaps, monkeypatch):
    config = config_of("llama")
    models, samples = [tiny_model(config, seed) for seed in (0, 1)], batches_of(config, count=8, batch=64)
    for model in models:
        # Random teachers hardly prefer any class, and then everybody is near.
        model.lm_head.weight.data *= 8
    monkeypatch.setattr(automatic, "POLISH", 5)
    assert fuse(named(models), 0.5, samples).report["polished"] is not None
    monkeypatch.setattr(automatic, "NEAR", 1e3)
    assert fuse(named(models), 0.5, samples).report["polished"] is None
    assert fuse(named(models), 0.5, samples, FusionOptions(refit=False, polish=5)).report["polished"] is None


def test_a_student_that_is_aligned_to_an_anchor_is_polished_if_asked(small_heaps):
    config = config_of("llama")
    models, samples = [tiny_model(config, seed) for seed in (0, 1)], batches_of(config, count=8, batch=64)
    options = {"residual": "averaging", "weights": (1.0, 1.0)}
    assert fuse(named(models), 1.0, samples, FusionOptions(**options)).report["polished"] is None
    assert fuse(named(models), 1.0, samples, FusionOptions(**options, polish=100)).report["polished"]


def test_every_token_is_dealt_once_and_by_its_sample():
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = False
    heaps = turns([5, 6, 7], (3, 7), mask, 4)
    assert len(heaps) == int(mask.sum()) and set(heaps.tolist()) == {0, 1, 2, 3}
    assert torch.equal(heaps == 0, thinned([5, 6, 7], (3, 7), mask, 4))
    assert torch.equal(turns([6, 5, 7], (3, 7), mask[[1, 0, 2]], 4)[:4], heaps[7:11])


def test_a_polish_of_less_than_nothing_is_refused():
    with pytest.raises(ValueError, match="polish"):
        FusionOptions(polish=-1)


def named(models):
    return [(f"teacher {k}", model) for k, model in enumerate(models)]


def fused(models, samples, *, steps):
    return fuse(named(models), 0.5, samples, FusionOptions(polish=steps, residual="principal", inner="importance"))

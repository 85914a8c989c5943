"""Accuracy and speed of shapes, weighed by what the user prefers."""

from __future__ import annotations

import pytest
from families import batches_of, config_of, tiny_model

from compressor.anatomy import inspect_config
from compressor.fusion import fuse_models
from compressor.fusion.joint import preference
from compressor.fusion.joint.preference import preferred
from compressor.fusion.shape.cost import relative_cost
from compressor.models.meta import meta_model
from compressor.recipe import FusionOptions
from compressor.testing.tiny_configs import tiny_config

#: {trial: (distance from the ensemble, time)}.
TRIALS = {"all": (0.100, 3.0), "smaller": (0.109, 2.0), "about": (0.105, 2.01), "fewer": (0.9, 1.0)}


def chosen(prefer, **scores):
    trials = {name: (scores.get(name, score), cost) for name, (score, cost) in TRIALS.items()}
    return preferred(list(trials), lambda name: trials[name][0], lambda name: trials[name][1], prefer)


def test_what_each_preference_takes():
    assert chosen("accuracy") == "all"
    # Of those about as near the fastest, and of those about as fast the nearest.
    assert chosen("balanced") == "about"
    assert chosen("balanced", about=0.2, smaller=0.2) == "all"
    assert chosen("speed") == "fewer"
    assert chosen("balanced", all=-1e-17) == "all"
    # Next to a pilot without error no other is near.
    assert chosen("balanced", all=0.0, smaller=0.004) == "all" and chosen("speed", all=0.0) == "fewer"


def test_more_heads_of_the_same_channels_cost_more():
    costs = []
    for heads in (2, 4, 8):
        config = tiny_config("vit", num_attention_heads=heads)
        costs.append(relative_cost(meta_model(config), inspect_config(config), 17))
    assert costs == sorted(costs) and costs[0] < 0.97 * costs[2]


@pytest.mark.parametrize("margin", [1.0, 1e9])
def test_a_fusion_takes_the_fastest_shape_within_the_margin(margin, monkeypatch):
    monkeypatch.setitem(preference.MARGINS, "balanced", margin)
    teachers = [(f"teacher {seed}", tiny_model(config_of("vit"), seed)) for seed in (0, 1)]
    batches = batches_of(config_of("vit"), 4, 24)
    choice = fuse_models(teachers, 0.5, batches, FusionOptions(polish=0, effort="fast")).report["choice"]
    times = {entry["candidate"].split(",")[0]: entry["relative_time"] for entry in choice["shapes"]}
    assert min(times.values()) == 1.0 and len(set(times.values())) > 1
    best, maps = min(choice["shapes"], key=lambda entry: entry["held_out_kl"])["candidate"].split(", ", 1)
    # Shapes alone are weighed: pilots of fewer teachers promise more than they keep.
    assert maps == choice["residual"]
    tried = [shape for shape in times if any(entry["candidate"] == f"{shape}, {maps}" for entry in choice["shapes"])]
    assert choice["attention"] == (min(tried, key=times.get) if margin > 1 else best)

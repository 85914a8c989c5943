"""Checkpoints are found by disturbing what a module writes."""

from __future__ import annotations

import torch
from families import config_of

from compressor.anatomy.certificate import random_model
from compressor.anatomy.checkpoints import Checkpoints
from compressor.models.inputs import dummy_inputs


def test_the_stream_after_an_addition_is_found_and_the_undisturbed_pass_runs_once():
    model = random_model(config_of("vit"))
    calls = {"first": 0, "last": 0}
    for name, module in (("first", model.vit.embeddings), ("last", model.classifier)):
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    layers = [f"vit.layers.{index}" for index in range(len(model.vit.layers))]
    places = [(f"{layers[0]}.layernorm_after", False), (layers[0], True), (f"{layers[1]}.layernorm_before", False)]
    writers = [f"{layers[0]}.attention.o_proj", f"{layers[0]}.mlp.fc2"]
    inputs = dummy_inputs(model.config, dtype=torch.float64)
    checkpoints = Checkpoints(model, inputs, places, writers)
    assert checkpoints.after(writers[0], places) == (*places[0], 1.0)
    assert checkpoints.after(writers[1], places[1:]) == (*places[1], 1.0)
    assert checkpoints.after(writers[1], []) is None
    # Passes end where nothing more is to be seen.
    assert calls == {"first": 3, "last": 0}

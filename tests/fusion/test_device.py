"""A fusion on another device (a pretended one, which refuses operands of two devices) gives the CPU's student."""

import pytest
import torch
from pretend_device import pretend_device
from three_layers import OPTIONS, bert, inputs, llama, vit

from compressor.fusion import fuse_models
from compressor.fusion.build import reconstruction
from compressor.recipe import FusionOptions

#: Pilots of all maps and shapes; the reconstruction of layers; the paper's alignment.
CASES = {
    "vit": (vit, OPTIONS),
    "bert": (bert, OPTIONS),
    "llama": (llama, OPTIONS),
    "pilots": (llama, FusionOptions(effort="fast")),
    "readers": (vit, OPTIONS.model_copy(update={"residual": "readers", "narrowing": "all-heads"})),
    "polish": (bert, OPTIONS.model_copy(update={"polish": 2})),
    "weights": (vit, FusionOptions(residual="barycentre", inner="transport", refit=False)),
}


def fused(make, options, device, width=0.5):
    named = [(str(seed), make(seed).to(device)) for seed in (1, 2)]
    samples = inputs(make) if options.refit else None
    batches = samples and [{name: value.to(device) for name, value in batch.items()} for batch in samples]
    return fuse_models(named, width, batches, options).model


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in ("pilots", "polish") else []) for case in CASES]
)
def test_the_student_is_the_cpus(case, monkeypatch):
    monkeypatch.setattr(reconstruction, "STEP_TOKENS", 64)
    make, options = CASES[case]
    here = fused(make, options, "cpu")
    with pretend_device() as device:
        there = fused(make, options, device)
        assert {parameter.device for parameter in there.parameters()} == {device}
        there.to("cpu")
    assert all(torch.equal(a, b) for a, b in zip(there.parameters(), here.parameters(), strict=True))


@pytest.mark.slow
def test_an_alignment_to_an_anchor_too():
    options = FusionOptions(residual="global", refit=True)
    here = fused(vit, options, "cpu", 1.0)
    with pretend_device() as device:
        there = fused(vit, options, device, 1.0).to("cpu")
    assert all(torch.equal(a, b) for a, b in zip(there.parameters(), here.parameters(), strict=True))


def test_operands_of_two_devices_are_refused():
    with pretend_device() as device, pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device=device) + torch.ones(2)

"""Heads that are more than one linear map are fitted to the ensemble's predictions by descent."""

from __future__ import annotations

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.fusion import fuse_models
from compressor.fusion.build import reconstruction, tail
from compressor.recipe import FusionOptions
from compressor.report.describe import describe_last_layer

OPTIONS = FusionOptions(residual="principal", inner="importance", mixture="probabilities", narrowing="smaller-heads")


def teachers():
    """Models of other seeds that are sure of classes."""
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[3, 3],
        strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2], decoder_hidden_size=24, num_labels=4,
        initializer_range=0.3,
        architectures=["SegformerForSemanticSegmentation"],
    )  # fmt: skip
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = SegformerForSemanticSegmentation(config).eval()
        model.decode_head.classifier.weight.data *= 3
        models.append(model)
    return models


def batches(count=10):
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(32, 3, 16, 16, generator=generator)} for _ in range(count)]


def fused(models, samples):
    named = [(f"teacher {k}", model) for k, model in enumerate(models)]
    return fuse_models(named, 0.5, samples, OPTIONS)


def test_a_head_of_convolutions_comes_nearer_to_the_ensemble(monkeypatch):
    monkeypatch.setattr(reconstruction, "EVALUATION_STEPS", 20)
    monkeypatch.setattr(tail, "TAIL_STEPS", 60)
    models, samples, others = teachers(), batches(), batches(12)[10:]
    near = fused(models, samples)
    monkeypatch.setattr(tail, "TAIL_WORK", 1)
    far = fused(models, samples)
    targets = [ensemble_predictions(models, [1, 1], batch) for batch in others]
    assert mean_kl(near.model, others, targets) < mean_kl(far.model, others, targets)
    entry = near.report["last_layer"]
    assert entry["after"] < entry["before"] and "decode_head, fitted" in describe_last_layer(entry)
    assert far.report["last_layer"] is None
    # The last convolution is a linear map of every pixel, and fitted in closed form before.
    assert "decode_head.classifier" in [fit["module"] for fit in far.report["fits"]]
    assert far.report["head"]["module"] == "decode_head.classifier"


def test_without_samples_weights_alone_are_aligned():
    student = fused(teachers(), None).model
    assert student.config.decoder_hidden_size == 12
    assert student(**batches(1)[0]).logits.isfinite().all()

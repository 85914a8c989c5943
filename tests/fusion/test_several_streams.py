"""Streams of several stages cannot be rotated: then one teacher's own coordinates are tried too."""

from __future__ import annotations

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from compressor.fusion import fuse_models
from compressor.fusion.joint import search
from compressor.recipe import FusionOptions


def segmenter(seed):
    """A SegFormer of two stages with random weights."""
    torch.manual_seed(seed)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[3, 3],
        strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[2, 2], decoder_hidden_size=32,
        initializer_range=0.2, num_labels=5, architectures=["SegformerForSemanticSegmentation"],
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config).eval()


def test_coordinates_of_single_teachers_are_candidates(monkeypatch):
    # Common components that hold all energy are of no use where coordinates can only be coupled.
    monkeypatch.setattr(search, "energy_left_out", lambda problem: 0.0)
    draw = torch.Generator().manual_seed(0)
    batches = [{"pixel_values": torch.randn(8, 3, 16, 16, generator=draw)} for _ in range(6)]
    teachers = [("a", segmenter(0)), ("b", segmenter(1))]
    tried = fuse_models(teachers, 0.5, batches, FusionOptions()).report["choice"]["shapes"]
    owners = {entry["candidate"].partition(" of ")[2].partition(" of ")[2].partition(",")[0] for entry in tried}
    assert {"all teachers", "a", "b"} <= owners

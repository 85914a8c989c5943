"""Heads of segmentation that read several layers, and that are not understood yet: one line says so."""

from __future__ import annotations

import pytest
from transformers import BeitConfig, DPTConfig

from compressor.anatomy import inspect_config
from compressor.errors import UnsupportedError

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
IMAGES = {"image_size": 32, "patch_size": 8, "num_labels": 3, "use_auxiliary_head": False}


def beit():
    return BeitConfig(
        architectures=["BeitForSemanticSegmentation"], out_indices=[1, 2, 3, 4], pool_scales=[1, 2],
        use_relative_position_bias=True, **SIZES, **IMAGES,
    )  # fmt: skip


def dpt():
    return DPTConfig(
        architectures=["DPTForSemanticSegmentation"], backbone_out_indices=[0, 1, 2, 3], fusion_hidden_size=16,
        neck_hidden_sizes=[8, 16, 16, 16], **SIZES, **IMAGES,
    )  # fmt: skip


@pytest.mark.parametrize("make", [beit, dpt])
def test_they_are_refused_by_name(make):
    config = make()
    with pytest.raises(UnsupportedError, match=f"{config.model_type} .*(is|be) .*certified"):
        inspect_config(config)

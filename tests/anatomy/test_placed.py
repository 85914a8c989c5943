"""Streams whose coordinates have fixed places keep their width; what is proven of the rest may become narrower."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from compressor.anatomy import CERTIFICATE_TOLERANCE, inspect_config
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.infer import small_config
from compressor.errors import UnsupportedError
from compressor.fusion import fuse_models
from compressor.fusion.self_test import check_recovery
from compressor.models.inputs import dummy_inputs
from compressor.recipe import FusionOptions

_WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_CONVOLUTIONS = {"conv_dim": [16, 16], "conv_stride": [4, 2], "conv_kernel": [8, 3], "num_feat_extract_layers": 2}
#: {model type: (class, fields)}.
MODELS = {
    # Sinusoidal positions that are no parameters.
    "videomae": ("VideoMAEModel", _WIDTHS | {"image_size": 16, "patch_size": 8, "num_frames": 2, "tubelet_size": 1}),
    # A grouped convolution on the stream.
    "wav2vec2": (
        "Wav2Vec2Model",
        _WIDTHS | _CONVOLUTIONS | {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 4, "vocab_size": 40},
    ),
    # The stream is several embeddings side by side.
    "layoutlmv3": (
        "LayoutLMv3ForSequenceClassification",
        _WIDTHS
        | {"hidden_size": 96, "coordinate_size": 16, "shape_size": 16, "vocab_size": 60, "max_position_embeddings": 64,
           "max_2d_position_embeddings": 64, "input_size": 32, "patch_size": 8, "num_labels": 3},
    ),
}  # fmt: skip


def placed(model_type: str):
    architecture, fields = MODELS[model_type]
    config = AutoConfig.for_model(model_type, **fields)
    config.architectures = [architecture]
    return config


@pytest.mark.parametrize("kind", MODELS)
def test_a_stream_with_fixed_places_is_named_and_keeps_its_width(kind):
    config = placed(kind)
    anatomy = inspect_config(config)
    assert anatomy.error <= CERTIFICATE_TOLERANCE
    assert [space.placed for space in anatomy.residuals] == [True]
    assert "changes the answers" in anatomy.pinned["residual"]
    assert anatomy.fields["hidden_size"] == "fixed" and anatomy.fields["intermediate_size"] == "ffn"


@pytest.mark.parametrize("kind", ["videomae", pytest.param("wav2vec2", marks=pytest.mark.slow)])
def test_hidden_units_beside_such_a_stream_become_fewer(kind):
    config = placed(kind)
    teachers = [(f"seed {seed}", random_model(config, seed).float()) for seed in (1, 2)]
    batches = [dummy_inputs(config, 4, 12, seed=seed) for seed in range(2)]
    with pytest.raises(UnsupportedError, match=r"have fixed places .*--width 1 --ffn 0\.5"):
        fuse_models(teachers, 0.5, batches)
    student = fuse_models(teachers, 1.0, batches, FusionOptions(ffn=0.5)).model
    assert (student.config.hidden_size, student.config.intermediate_size) == (32, 24)
    with torch.no_grad():
        assert all(answer.isfinite().all() for answer in all_outputs(student, batches[0]).values())


def test_convolutions_before_a_stream_are_not_alike_and_no_experts():
    config = placed("wav2vec2")
    sizes = {"conv_dim": [16] * 5, "conv_stride": [2] * 5, "conv_kernel": [2] * 5, "num_feat_extract_layers": 5}
    for name, value in sizes.items():
        setattr(config, name, value)
    anatomy = inspect_config(config)
    spaces = [space for name, space in anatomy.spaces.items() if "conv_layers" in name]
    assert [(space.size, space.copies) for space in spaces] == [(16, 1)] * 5
    assert not [name for name in anatomy.pinned if "conv_layers" in name]


def test_a_teacher_with_such_a_stream_comes_back_at_full_width():
    assert check_recovery(placed("videomae")) < 1e-5


def test_sizes_that_add_up_to_the_width_shrink_together():
    config = placed("layoutlmv3")
    config.hidden_size, config.coordinate_size, config.shape_size = 768, 128, 128
    assert small_config(config).hidden_size <= 192


def test_the_size_of_a_head_is_no_number_of_heads():
    config = AutoConfig.for_model(
        "bamba", hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=60,
        num_key_value_heads=2, mamba_n_heads=4, mamba_d_head=64, mamba_d_state=8, mamba_n_groups=1,
        attn_layer_indices=[1], max_position_embeddings=40, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config.architectures = ["BambaForCausalLM"]
    assert small_config(config).mamba_d_head == 64
    assert inspect_config(config).error <= CERTIFICATE_TOLERANCE


def test_streams_of_maps_have_their_channels_second():
    config = AutoConfig.for_model("convnext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
    config.architectures = ["ConvNextForImageClassification"]
    assert [space.size for space in inspect_config(config).residuals] == [8, 16]


def test_a_permutation_language_model_is_tried_on_a_token_that_it_predicts():
    config = AutoConfig.for_model("xlnet", vocab_size=60, d_model=32, n_layer=2, n_head=4, d_inner=48)
    config.architectures = ["XLNetLMHeadModel"]
    anatomy = inspect_config(config)
    assert anatomy.error <= CERTIFICATE_TOLERANCE and anatomy.proven == 1

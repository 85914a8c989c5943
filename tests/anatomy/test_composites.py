"""Models of several parts, of stages, and of images and sounds: sized, certified and fused like any other."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from compressor.anatomy import CERTIFICATE_TOLERANCE, Kind, inspect_config
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.layer_fields import with_layers
from compressor.anatomy.resize import measure_growth
from compressor.anatomy.trials import complete_inputs
from compressor.errors import UnsupportedError
from compressor.fusion import fuse_models
from compressor.fusion.self_test import RECOVERY_TOLERANCE, check_recovery
from compressor.fusion.shape.spec import student_specs
from compressor.fusion.shape.streams import split_streams
from compressor.models.configs.fields import field_paths, read_field, repeated_fields, with_fields
from compressor.models.inputs import MAKERS, dummy_inputs
from compressor.models.tasks.table import find_task
from compressor.recipe import FusionOptions

_WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = _WIDTHS | {"vocab_size": 120, "max_position_embeddings": 64}
_LLAMA = _TEXT | {"num_key_value_heads": 2, "model_type": "llama"}
_IMAGE = _WIDTHS | {"image_size": 16, "patch_size": 8}
_TOWER = _IMAGE | {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
_STAGES = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 2}
#: {model type: (class, fields)}.
MODELS = {
    "clip": ("CLIPModel", {"text_config": _TEXT, "vision_config": _TOWER, "projection_dim": 24}),
    "llava": (
        "LlavaForConditionalGeneration",
        {"text_config": _LLAMA, "vision_config": _TOWER | {"model_type": "clip_vision_model"}, "image_token_index": 99},
    ),
    "blip": ("BlipForConditionalGeneration", {"text_config": _TEXT, "vision_config": _IMAGE}),
    "siglip_vision_model": ("SiglipVisionModel", _IMAGE),
    "swin": ("SwinForImageClassification", _STAGES | {"num_labels": 5}),
    "segformer": (
        "SegformerForImageClassification",
        {
            "num_encoder_blocks": 2, "depths": [1, 2], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
            "patch_sizes": [3, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
            "num_labels": 5,
        },
    ),
    "pvt": (
        "PvtForImageClassification",
        {
            "image_size": 64, "num_encoder_blocks": 2, "depths": [1, 2], "sequence_reduction_ratios": [2, 1],
            "hidden_sizes": [16, 32], "patch_sizes": [4, 2], "strides": [4, 2], "num_attention_heads": [2, 4],
            "mlp_ratios": [2, 2], "num_labels": 5,
        },
    ),
    "vit_mae": ("ViTMAEModel", _IMAGE),
    "glpn": (
        "GLPNModel",
        {
            "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
            "patch_sizes": [3, 3], "strides": [4, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2],
        },
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": _LLAMA | {
                "model_type": "qwen3_vl_text", "head_dim": 8,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
            },
            "vision_config": {
                "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": 4,
                "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
            },
            "image_token_id": 100, "video_token_id": 101, "vision_start_token_id": 102, "vision_end_token_id": 103,
        },
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        {"text_config": _LLAMA, "vision_config": _IMAGE | {"image_size": 32}, "image_token_id": 100, "pad_token_id": 0},
    ),
}  # fmt: skip
_FAST = ("clip", "llava", "vit_mae", "segformer")


def tiny(kind: str):
    architecture, fields = MODELS[kind]
    config = AutoConfig.for_model(kind, **fields)
    config.architectures = [architecture]
    return config


def kinds(*fast: str):
    return [kind if kind in fast else pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS]


@pytest.mark.parametrize("kind", kinds(*_FAST))
def test_every_part_and_stage_certifies(kind):
    anatomy = inspect_config(tiny(kind))
    assert anatomy.error <= CERTIFICATE_TOLERANCE
    assert all(change > CERTIFICATE_TOLERANCE for change in anatomy.sensitivity.values())
    widths = {space.size for space in anatomy.residuals}
    assert len(anatomy.stacks) == (1 if kind in ("siglip_vision_model", "vit_mae") else 2)
    assert len(widths) == (2 if kind in ("clip", "llava", "swin", "segformer", "pvt", "glpn", "qwen3_vl") else 1)


def test_stages_that_share_a_field_are_narrowed_together_and_towers_apart():
    swin, llava = inspect_config(tiny("swin")), inspect_config(tiny("llava"))
    assert [sorted(s.size for s in part.residuals) for part in split_streams(swin)] == [[16, 32]]
    parts = split_streams(llava)
    assert [[space.size for space in part.residuals] for part in parts] == [[16], [32]]
    assert {field.partition(".")[0] for field in parts[0].fields} == {"vision_config"}
    assert {field.partition(".")[0] for field in parts[1].fields} == {"text_config"}
    # Attention belongs to the stream that its output writes.
    assert all("language_model" in s.name for s in parts[1].spaces.values() if s.kind is Kind.ATTENTION)


@pytest.mark.parametrize("kind", ["swin", "clip", "segformer"])
def test_half_the_width_halves_every_stage_and_tower(kind):
    config = tiny(kind)
    anatomy = inspect_config(config)
    specs = student_specs(config, anatomy, 0.5)
    for spec in specs:
        student = inspect_config(spec.config)
        assert [2 * space.size for space in student.residuals] == [space.size for space in anatomy.residuals]


@pytest.mark.parametrize("kind", kinds("clip", "siglip_vision_model"))
def test_a_composite_fused_by_itself_at_width_one_is_itself(kind):
    if kind == "qwen3_vl":
        with pytest.raises(UnsupportedError, match=r"no row for every sample .*pixel_values"):
            check_recovery(tiny(kind))
    else:
        assert check_recovery(tiny(kind)) <= RECOVERY_TOLERANCE


@torch.no_grad()
def test_a_model_of_images_among_tokens_becomes_narrower_in_all_its_parts():
    teachers = [(str(seed), random_model(tiny("llava"), seed).float()) for seed in (1, 2)]
    config = teachers[0][1].config
    batches = [complete_inputs(teachers[0][1], config, 4, 6, seed) for seed in range(2)]
    options = FusionOptions(residual="barycentre", inner="transport")
    student = fuse_models(teachers, 0.5, batches, options).model
    assert student.config.text_config.hidden_size == 16 and student.config.vision_config.hidden_size == 8
    logits = all_outputs(student, batches[0])["logits"]
    assert logits.isfinite().all()
    other = {**batches[0], "pixel_values": -batches[0]["pixel_values"]}
    assert not torch.allclose(all_outputs(student, other)["logits"], logits)


@pytest.mark.slow
@torch.no_grad()
def test_patches_of_all_images_in_one_list_are_fused_by_weights_alone():
    teachers = [(str(seed), random_model(tiny("qwen3_vl"), seed).float()) for seed in (1, 2)]
    student = fuse_models(teachers, 0.5, None, FusionOptions(residual="barycentre", inner="transport")).model
    assert student.config.text_config.hidden_size == 16 and student.config.vision_config.hidden_size == 8
    assert all_outputs(student, dummy_inputs(student.config))["logits"].isfinite().all()


def test_as_many_placeholders_as_features_of_an_image():
    config = tiny("llava")
    inputs = dummy_inputs(config, batch=3, length=6)
    # 16 / 8 pixels each way; the class token is left out.
    assert inputs["pixel_values"].shape == (3, 3, 16, 16)
    assert (inputs["input_ids"] == 99).sum(1).tolist() == [4, 4, 4]
    assert inputs["attention_mask"].shape == inputs["input_ids"].shape == (3, 10)
    assert find_task(config).name == "causal-lm"


def test_what_no_input_of_the_class_reaches_is_named_as_idle():
    anatomy = inspect_config(tiny("llava"))
    # LLaVA reads the last but one layer of its tower.
    assert anatomy.idle and all("vision_tower" in name for name in anatomy.idle)
    assert not any(".layers.0." in name for name in anatomy.idle)
    assert 0.5 < anatomy.proven < 1


def test_a_decoder_alone_is_tried_with_what_an_encoder_would_have_made():
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "decoder_attention_heads": 4}
    more = {"decoder_ffn_dim": 48, "vocab_size": 120, "max_target_positions": 40, "max_source_positions": 20}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    config = AutoConfig.for_model("whisper", **sizes, **more, **tokens)
    config.architectures = ["WhisperForCausalLM"]
    anatomy = inspect_config(config)
    assert anatomy.proven == 1 and not anatomy.idle
    assert any("encoder_attn" in name for name in anatomy.spaces)


def test_a_table_without_rows_is_transported():
    config = AutoConfig.for_model("dinov3_vit", **_IMAGE, num_register_tokens=0)
    config.architectures = ["DINOv3ViTModel"]
    assert inspect_config(config).error <= CERTIFICATE_TOLERANCE


def test_media_that_cannot_be_made_are_named(monkeypatch):
    monkeypatch.delitem(MAKERS, "past_values")
    config = AutoConfig.for_model("timesfm", num_hidden_layers=1, hidden_size=16, intermediate_size=16)
    config.architectures = ["TimesFmModel"]
    with pytest.raises(UnsupportedError, match="no random past_values can be made for this timesfm"):
        inspect_config(config)


def test_fields_are_read_and_replaced_by_path():
    config = tiny("clip")
    assert "vision_config.hidden_size" in field_paths(config)
    changed = with_fields(config, {"vision_config.hidden_size": 8, "projection_dim": 12})
    assert (read_field(changed, "vision_config.hidden_size"), read_field(config, "vision_config.hidden_size")) == (
        8,
        16,
    )
    assert read_field(config, "text_config.no_such_field") is None
    stages = tiny("swin")
    assert {"depths.0", "depths.1", "num_heads.1"} <= set(field_paths(stages))
    changed = with_fields(stages, {"num_heads.1": 2})
    assert list(changed.num_heads) == [2, 2] and list(stages.num_heads) == [2, 4]
    # Lists of images' sides or of layers count no stages.
    assert not any(path.startswith("out_indices.") for path in field_paths(stages))


def test_a_field_that_the_whole_config_repeats_follows_its_part():
    config = tiny("clip")
    config.vision_config.projection_dim = 24
    assert repeated_fields(config, {"vision_config.projection_dim": 12}) == {"projection_dim": 12}
    assert repeated_fields(config, {"vision_config.projection_dim": 12, "projection_dim": 6}) == {}
    assert repeated_fields(config, {"vision_config.hidden_size": 8}) == {}


def test_layers_of_a_part_and_of_a_stage_are_left_out():
    shallow = with_layers(tiny("clip"), ["text_config.num_hidden_layers"], [0])
    assert (shallow.text_config.num_hidden_layers, shallow.vision_config.num_hidden_layers) == (1, 2)
    assert list(with_layers(tiny("swin"), ["depths.1"], [0]).depths) == [1, 1]
    # In lists of lists the inner ones hold the layers.
    lists = measure_growth(tiny("segformer"), 3).lists
    assert [(layers.fields, layers.count) for layers in lists] == [(("depths.0",), 1), (("depths.1",), 2)]
    assert [layers.prefix for layers in lists] == ["segformer.stages.0.blocks.", "segformer.stages.1.blocks."]


def test_layers_that_pass_the_stream_of_a_stage_on_are_a_stack_where_the_first_one_makes_it():
    # Sharper weights would make answers of so many convolutions as large as masks, and hide every wrong map.
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 32, 32, 32], "depths": [2, 3, 2, 2]}
    config = AutoConfig.for_model("resnet", **sizes, num_labels=3)
    config.architectures = ["ResNetForImageClassification"]
    anatomy = inspect_config(config)
    stages = [[layer.rpartition(".")[2] for layer in stack.layers] for stack in anatomy.stacks]
    assert stages == [["1"], ["1", "2"], ["1"], ["1"]]
    assert anatomy.error <= CERTIFICATE_TOLERANCE < min(anatomy.sensitivity.values())
    assert not anatomy.pinned
    assert {anatomy.fields[f"hidden_sizes.{stage}"] for stage in range(4)} == {"hidden"}

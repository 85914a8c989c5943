"""Parts of composite models with widths of their own."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from compressor.anatomy import inspect_config
from compressor.anatomy.certificate import random_model
from compressor.errors import UserError
from compressor.fusion import fuse_models, student_specs
from compressor.recipe import FusionOptions
from compressor.recipe.fusion import Ratios

_WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def clip():
    config = AutoConfig.for_model(
        "clip",
        text_config=_WIDTHS | {"vocab_size": 60, "max_position_embeddings": 40},
        vision_config=_WIDTHS | {"image_size": 16, "patch_size": 8},
        projection_dim=24,
    )
    config.architectures = ["CLIPModel"]
    return config


def widths(config):
    return [(part.hidden_size, part.intermediate_size) for part in (config.vision_config, config.text_config)]


@pytest.mark.parametrize(
    ("width", "parts", "expected"),
    [
        (1.0, {"vision": 0.5}, [(16, 24), (32, 48)]),
        (0.5, {"text": 1.0}, [(16, 24), (32, 48)]),
        (1.0, {"vision_config": 0.75, "text": 0.5}, [(24, 36), (16, 24)]),
    ],
)
def test_a_part_has_a_width_of_its_own(width, parts, expected):
    config = clip()
    specs = student_specs(config, inspect_config(config), width, narrowing="fewer-heads", ratios=Ratios(part=parts))
    assert [widths(spec.config) for spec in specs] == [expected]


def test_one_tower_alone_is_fused():
    teachers = [(f"seed {seed}", random_model(clip(), seed).float()) for seed in (1, 2)]
    student = fuse_models(teachers, 1.0, None, FusionOptions(part={"vision": 0.5})).model
    assert widths(student.config) == [(16, 24), (32, 48)]


def test_unknown_parts_are_answered_with_the_known_ones():
    config = clip()
    with pytest.raises(UserError, match="no part 'image': its parts are text, vision"):
        student_specs(config, inspect_config(config), 0.5, ratios=Ratios(part={"image": 0.5}))

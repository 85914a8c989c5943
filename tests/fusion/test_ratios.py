"""Sizes that do not all follow the width."""

from __future__ import annotations

import pytest
import torch
from families import batches_of, config_of, tiny_model

import compressor
from compressor.anatomy import inspect_config
from compressor.errors import UserError
from compressor.fusion import student_specs
from compressor.recipe import build_recipe
from compressor.recipe.fusion import Ratios


def sizes(family, width=0.5, narrowing="auto", **ratios):
    config = config_of(family)
    (spec,) = student_specs(config, inspect_config(config), width, narrowing=narrowing, ratios=Ratios(**ratios))
    return {name: new for name, (_, new) in spec.fields.items()}


@pytest.mark.parametrize(
    ("family", "width", "ratios", "hidden", "ffn", "heads"),
    [
        ("bert", 0.5, {"hidden": 0.75, "ffn": 0.35}, 24, 17, 4),
        ("bert", 1.0, {"hidden": 0.5, "heads": 0.5}, 16, 48, 2),
        ("vit", 0.75, {"hidden": 0.5, "heads": 1.0}, 16, 36, 4),
        ("llama", 1.0, {"heads": 0.5}, 32, 48, 2),
        ("llama", 0.5, {"hidden": 1.0}, 32, 24, 2),
    ],
)
def test_every_size_has_a_share_of_its_own(family, width, ratios, hidden, ffn, heads):
    found = sizes(family, width, **ratios)
    groups = {"num_key_value_heads": heads // 2} if family == "llama" else {}
    assert found == {
        "hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads, **groups
    }  # fmt: skip


def test_equal_shares_are_a_width_of_fewer_heads():
    assert sizes("bert", 1.0, hidden=0.5, ffn=0.5, heads=0.5) == sizes("bert", 0.5, "fewer-heads")


def test_heads_larger_than_the_teachers_are_refused_with_what_is_possible():
    with pytest.raises(UserError, match=r"2 heads of a hidden size of 24 would be 12 wide.*--heads \(0.75 or more\)"):
        sizes("bert", hidden=0.75, heads=0.5)
    assert sizes("bert", hidden=0.75, heads=0.75)["num_attention_heads"] == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": {"heads": 0.5, "narrowing": "fewer-heads"}}, "leave narrowing"),
        ({"fusion": {"ffn": 0.5, "anchor": "narrow"}}, "leave --hidden, --ffn, --heads and --part out"),
        ({"fusion": {"hidden": 0.5}, "target": {"params": 0.5}}, "narrows all sizes alike"),
        ({"fusion": {"ffn": 0.0}}, "greater than 0"),
        ({"fusion": {"ffn": 1.5}}, "less than or equal to 1"),
    ],
)
def test_what_excludes_each_other_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        build_recipe({"teachers": ["a"], **values}, where="")


@pytest.mark.parametrize("family", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_narrower_ffn_alone_leaves_the_stream_whole(family):
    """With the stream and the heads whole, narrower FFNs cost less than narrower everything."""
    config = config_of(family)
    teacher, batches = tiny_model(config, 0), batches_of(config, 4, 24)
    students = [
        compressor.fuse([teacher], 1.0, batches, ffn=0.5).model, compressor.fuse([teacher], 0.5, batches).model
    ]  # fmt: skip
    with torch.no_grad():
        wanted = teacher(**batches[0]).logits
        errors = [float((student(**batches[0]).logits - wanted).norm()) for student in students]
    assert students[0].config.hidden_size == config.hidden_size
    assert errors[0] < 0.7 * errors[1]

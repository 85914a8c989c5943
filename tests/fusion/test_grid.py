"""Large sizes are rounded to what kernels like, and what runs fast where is said."""

from __future__ import annotations

import pytest
from transformers import BertConfig, LlamaConfig

from compressor.anatomy import inspect_config
from compressor.fusion.shape.servers import runs_fast_in
from compressor.fusion.shape.sizes import head_on_grid, on_grid
from compressor.fusion.shape.spec import student_specs
from compressor.recipe.fusion import Ratios
from compressor.testing.tiny_configs import tiny_config


def test_sizes_on_the_grid():
    assert [on_grid(size, 4096) for size in (100, 500, 520, 545, 4090, 4096)] == [100, 500, 512, 576, 4032, 4096]
    assert [head_on_grid(size, 128) for size in (20, 60, 80, 100, 128)] == [32, 64, 64, 96, 128]
    # Small heads of the teachers leave no choice.
    assert head_on_grid(10, 32) == 10 and head_on_grid(200, 200) == 200


def large(kind, architecture, **values):
    sizes = {"num_hidden_layers": 1, "vocab_size": 60, **values}
    return kind(architectures=[architecture], **sizes)


@pytest.mark.parametrize(
    ("config", "width", "rounded", "plain"),
    [
        (
            large(LlamaConfig, "LlamaForCausalLM", hidden_size=1024, intermediate_size=2816, num_attention_heads=8,
                  num_key_value_heads=8, head_dim=128),
            0.6, {"hidden_size": 640, "intermediate_size": 1664, "head_dim": 64},
            {"hidden_size": 616, "intermediate_size": 1690, "head_dim": 76},
        ),
        (
            large(BertConfig, "BertForMaskedLM", hidden_size=768, intermediate_size=3072, num_attention_heads=12),
            0.6, {"hidden_size": 480, "intermediate_size": 1856}, {"hidden_size": 456, "intermediate_size": 1843},
        ),
    ],
)  # fmt: skip
def test_large_students_are_rounded(config, width, rounded, plain):
    for grid, expected in ((True, rounded), (False, plain)):
        spec = student_specs(
            config, inspect_config(config), width, narrowing="smaller-heads", ratios=Ratios(grid=grid)
        )[0]
        assert {name: getattr(spec.config, name) for name in expected} == expected


def test_the_whole_width_stays():
    config = large(BertConfig, "BertForMaskedLM", hidden_size=660, intermediate_size=1000, num_attention_heads=12)
    spec = student_specs(config, inspect_config(config), 1.0)[0]
    assert (spec.config.hidden_size, spec.config.intermediate_size) == (660, 1000)


def test_what_runs_fast_where():
    config = tiny_config("llama", hidden_size=64, intermediate_size=96, head_dim=16)
    found = runs_fast_in(inspect_config(config), config)
    assert found["FlashAttention"] == "heads of 16: computed as heads of 32"
    assert found["ONNX Runtime GenAI"] == found["llama.cpp q8_0 and q4_0"] == found["ONNX Runtime int4"] == ""
    assert found["vLLM on CPUs"].startswith("heads of 16: takes 32")
    assert found["llama.cpp K-quants"] == "rows of 64, 96: no multiple of 256"
    config = tiny_config("vit", hidden_size=48, num_attention_heads=4)
    assert runs_fast_in(inspect_config(config), config) == {
        "FlashAttention": "heads of 12: no multiple of 8", "ONNX Runtime int4": "rows of 48: no multiple of 32"
    }  # fmt: skip

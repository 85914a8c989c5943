"""The zoo tries every model type, and its page counts what it shows."""

from __future__ import annotations

import pytest

from benchmarks.zoo import tiny
from benchmarks.zoo.page import markdown, widely_used
from benchmarks.zoo.tiny import class_of, model_types, tiny_configs
from compressor.errors import UnsupportedError


def test_types_have_the_class_that_auto_mappings_name():
    assert len(model_types()) > 500
    assert class_of("bert") == "BertForMaskedLM"
    assert class_of("t5") == "T5ForConditionalGeneration"
    assert class_of("siglip_vision_model") == "SiglipVisionModel"
    assert class_of("clip_vision_model") is not None


def test_tiny_configs_are_tiny_and_can_be_built():
    config = next(tiny_configs("llama", "LlamaForCausalLM"))
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 2, 128)
    assert config.architectures == ["LlamaForCausalLM"]


def test_a_type_without_a_tiny_config_says_why(monkeypatch):
    def broken():
        raise ImportError("needs the other library")

    monkeypatch.setitem(tiny.CONFIG_MAPPING._extra_content, "bert", broken)
    with pytest.raises(UnsupportedError, match=r"no tiny config .*ImportError: needs the other library"):
        next(tiny_configs("bert", "BertForMaskedLM"))


def test_widely_used_types_have_heads_of_several_tasks_or_are_named():
    types = widely_used()
    assert {"bert", "xlm", "llama4", "clip", "whisper"} <= types
    assert not {"xglm", "timm_wrapper"} & types
    assert 150 < len(types) < 230


def test_the_page_says_why_types_do_not_certify():
    rows = {
        "a": {"class": "A", "certified": False, "fused": False, "onnx": None, "message": "stopped after 25 s of"},
        "b": {"class": "B", "certified": False, "fused": False, "onnx": None, "message": "X requires the timm library"},
        "c": {"class": "C", "certified": False, "fused": False, "onnx": None, "message": "something else"},
    }
    page = markdown(rows, {"torch": "2", "transformers": "5"})
    assert "1 are stopped by the limit of time, 1 need a library that is not installed, 1 fail otherwise." in page


def test_the_page_counts_certified_fused_and_exported_types_and_tracebacks():
    good = {"class": "A", "certified": True, "error": 1e-16, "sensitivity": 0.5, "proven": 1.0, "fused": True}
    bad = {"class": "B", "certified": False, "fused": False, "onnx": None, "message": "a | b", "traceback": True}
    page = markdown(
        {"a": {**good, "onnx": 1e-7, "message": ""}, "b": bad, "c": {"class": None}},
        {"torch": "2", "transformers": "5"},
    )
    assert "Of 2 types, 1 certify (50%);" in page
    assert "A fusion was tried on 1: 1 are fused, 1 exported. 1 end in a traceback, 0 at a time limit." in page
    assert "| a | `A` | 1e-16 (5e-01) | 100% | yes | 1e-07 |  |" in page
    assert "| b | `B` | no |  | no | no | a / b |" in page

"""Every config field that counts, lists or names layers follows `--depth`, and the student's config loads again."""

from __future__ import annotations

import json

import pytest
import transformers
from command import compress
from families import config_of, family_params

from compressor.anatomy import inspect_config
from compressor.anatomy.layer_fields import with_layers
from compressor.fusion.shape.spec import student_specs
from compressor.models.meta import meta_model
from compressor.testing.tiny_configs import tiny_config

#: Values of other depths, where those of the table do not fit.
KINDS = {"gpt-neo": lambda depth: {"attention_types": [[["global", "local"], depth // 2]]}}


def at_depth(family, depth, fields):
    """The class's own config of a depth, with what it derives from that."""
    return tiny_config(family, **dict.fromkeys(fields, depth), **KINDS.get(family, lambda depth: {})(depth))


def shape_of(value):
    """The length of a list of kinds; numbers and names of stages themselves."""
    if isinstance(value, list) and not all(isinstance(item, str) and item.startswith("st") for item in value):
        return len(value)
    return value


@pytest.mark.parametrize("family", family_params(fast=("dinov2",)))
def test_fields_that_follow_the_depth_are_right_after_it_changed(family, tmp_path):
    fields = [field for stack in inspect_config(config_of(family)).stacks for field in stack.fields]
    deep, shallow = at_depth(family, 4, fields), at_depth(family, 2, fields)
    anatomy = inspect_config(deep)
    if any(stack.runs > 1 for stack in anatomy.stacks):
        pytest.skip("its layers share their weights: it has no depth to change")
    students = [spec.config for spec in student_specs(deep, anatomy, 0.5, 2)]
    own = {name for name, value in deep.to_dict().items() if value != shallow.to_dict()[name]}
    assert set(fields) <= own
    for config in students:
        values = config.to_dict()
        for name in sorted(own - {"attention_types"}):
            assert shape_of(values[name]) == shape_of(shallow.to_dict()[name]), name
        config.save_pretrained(tmp_path / "config")
        again = transformers.AutoConfig.from_pretrained(tmp_path / "config")
        assert {n: p.shape for n, p in meta_model(again).named_parameters()} == {
            n: p.shape for n, p in meta_model(config).named_parameters()
        }


WINDOWS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]

#: Family, fields of four layers, and what they are for the layers 1 and 3.
FIELDS = [
    ("dinov2", {"out_features": ["stage4"]}, {"out_features": ["stage2"], "out_indices": [2]}),
    ("dinov2", {"out_indices": [-1]}, {"out_features": ["stage2"], "out_indices": [-1]}),
    ("beit", {"out_indices": [0, 2, 4]}, {"out_features": ["stem", "stage1", "stage2"], "out_indices": [0, 1, 2]}),
    ("beit", {"out_indices": [1, 2, 3, 4]}, {"out_features": ["stage1", "stage2"], "out_indices": [1, 2]}),
    ("beit", {"pool_scales": [1, 2, 3, 6]}, {"pool_scales": [1, 2, 3, 6]}),
    ("qwen2", {"layer_types": WINDOWS}, {"layer_types": ["sliding_attention", "full_attention"]}),
    ("qwen2", {"max_window_layers": 2}, {"max_window_layers": 1}),
    ("qwen2", {"max_window_layers": 1}, {"max_window_layers": 0}),
    ("gemma2", {"eos_token_id": [1, 2, 3, 4]}, {"eos_token_id": [1, 2, 3, 4]}),
    ("deberta-v2", {"pos_att_type": ["p2c", "c2p", "p2c", "c2p"]}, {"pos_att_type": ["p2c", "c2p", "p2c", "c2p"]}),
    ("gpt-neo", {"attention_types": [[["global"], 1], [["local"], 3]]}, {"attention_layers": ["local", "local"]}),
]
#: Likewise, of other model types.
OTHERS = [
    ("qwen3_moe", {"mlp_only_layers": [0, 3]}, {"mlp_only_layers": [1]}),
    ("qwen2_moe", {"mlp_only_layers": [0, 2], "max_window_layers": 4}, {"mlp_only_layers": [], "max_window_layers": 2}),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}, {"no_rope_layers": [1, 0]}),
    ("llama4_text", {"moe_layers": [1, 3], "no_rope_layers": [1, 0, 1, 0]}, {"moe_layers": [0, 1]}),
    ("deepseek_v3", {"first_k_dense_replace": 3}, {"first_k_dense_replace": 1}),
    ("lfm2", {"full_attn_idxs": [2, 3]}, {"full_attn_idxs": [1]}),
    ("ernie4_5_moe", {"moe_layer_start_index": 1, "moe_layer_end_index": 2}, {"moe_layer_end_index": 0}),
    ("gemma3n_text", {"num_kv_shared_layers": 1, "intermediate_size": [8, 16, 24, 32]}, {"num_kv_shared_layers": 1}),
    ("gemma3n_text", {"intermediate_size": [8, 16, 24, 32]}, {"intermediate_size": [16, 32]}),
    ("lw_detr_vit", {"window_block_indices": [0, 1]}, {"window_block_indices": [0]}),
    ("data2vec-vision", {"out_indices": [1, 2, 3, 4]}, {"out_indices": [1, 2]}),
    ("longformer", {"attention_window": [2, 4, 6, 8]}, {"attention_window": [4, 8]}),
    ("granite_swa", {"layer_rope_theta": [1.0, 2.0, 3.0, 4.0]}, {"layer_rope_theta": [2.0, 4.0]}),
]


@pytest.mark.parametrize(("kind", "given", "wanted"), [*FIELDS, *OTHERS], ids=str)
def test_fields_keep_the_layers_that_are_left(kind, given, wanted):
    if (kind, given, wanted) in FIELDS:
        count = {"gpt-neo": "num_layers"}.get(kind, "num_hidden_layers")
        config = tiny_config(kind, **{count: 4, **given})
    else:
        count = "num_hidden_layers"
        config = transformers.AutoConfig.for_model(kind, num_hidden_layers=4, **given)
    student = with_layers(config, [count], [1, 3])
    assert {name: getattr(student, name) for name in wanted} == wanted
    assert getattr(student, count) == 2 and getattr(config, count) == 4
    again = type(student).from_dict(json.loads(student.to_json_string()))
    assert {name: getattr(again, name) for name in wanted} == wanted


def test_a_size_of_two_numbers_is_no_list_of_two_layers():
    config = tiny_config("beit", image_size=[16, 16], patch_size=[4, 4])
    student = with_layers(config, ["num_hidden_layers"], [1])
    assert (student.image_size, student.patch_size, student.stage_names) == ([16, 16], [4, 4], ["stem", "stage1"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dinov2", "beit"])
def test_a_student_of_fewer_layers_is_written(family, tmp_path, capsys):
    config = tiny_config(family, num_hidden_layers=3)
    teacher = tmp_path / "teacher"
    getattr(transformers, config.architectures[0])(config).save_pretrained(teacher)
    flags = ("--width", "0.5", "--depth", "2")
    assert compress(capsys, "plan", *flags, teacher)[0] == 0
    code, _, err = compress(capsys, "fuse", *flags, teacher, "-o", tmp_path / "student", "--no-onnx", "--no-latency")
    assert code == 0, err
    read = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert read.config.stage_names == ["stem", "stage1", "stage2"] and read.config.out_indices == [2]

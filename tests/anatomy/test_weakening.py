"""Gates, scales and operations that treat coordinates unlike each other: what stands of a space is still proven."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from compressor.anatomy import CERTIFICATE_TOLERANCE, Kind, inspect_config
from compressor.anatomy.certificate import permutation_error, random_model
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.resize import with_fields
from compressor.errors import UserError
from compressor.fusion import fuse_models
from compressor.fusion.self_test import check_recovery
from compressor.models.inputs import dummy_inputs
from compressor.recipe import FusionOptions

_TEXT = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
_GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 40}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
#: {model type: (class, fields)}.
ODD = {
    # Heads' outputs are scaled by a norm over all of them, or by a gate beside the queries.
    "bitnet": ("BitNetForCausalLM", _TEXT | _GROUPED),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        _TEXT | _GROUPED | _EXPERTS | {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
         "linear_value_head_dim": 8, "shared_expert_intermediate_size": 24,
         "layer_types": ["linear_attention", "full_attention"]},
    ),
    # Queries and keys have scales, and only some layers rotate them.
    "exaone4": ("Exaone4ForCausalLM", _TEXT | _GROUPED | {"sliding_window": 4, "sliding_window_pattern": 2}),
    # Queries, values and keys of two heads each, in four blocks.
    "codegen": ("CodeGenForCausalLM", {"vocab_size": 60, "n_embd": 64, "n_head": 8, "n_layer": 2, "n_positions": 40,
     "rotary_dim": 4, "bos_token_id": 1, "eos_token_id": 2}),
    # Keys and values from a latent that is read beside rotary channels.
    "deepseek_v2": ("DeepseekV2ForCausalLM", _TEXT | {"num_attention_heads": 4, "num_key_value_heads": 4,
     "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
     "head_dim": 4, "n_routed_experts": 4, "first_k_dense_replace": 2, "max_position_embeddings": 40}),
    # The last layer has a bias that others have not.
    "gpt_neox_japanese": ("GPTNeoXJapaneseForCausalLM", {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2,
     "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 40}),
    # Query heads, key and value of a group side by side; or all heads, which two fields count.
    "falcon": ("FalconForCausalLM", {"vocab_size": 60, "hidden_size": 64, "num_attention_heads": 8,
     "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}),
    # Two halves of the heads are subtracted from each other.
    "diffllama": ("DiffLlamaForCausalLM", _TEXT | _GROUPED),
}  # fmt: skip


def odd(model_type: str):
    architecture, fields = ODD[model_type]
    config = AutoConfig.for_model(model_type, **fields)
    config.architectures = [architecture]
    return config


def attentions(anatomy):
    return [space for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION]


@pytest.mark.parametrize("kind", ["bitnet", pytest.param("qwen3_next", marks=pytest.mark.slow), "exaone4"])
def test_scales_and_gates_of_heads_move_with_them(kind):
    anatomy = inspect_config(odd(kind))
    assert anatomy.error <= CERTIFICATE_TOLERANCE
    assert attentions(anatomy) and not [name for name in anatomy.pinned if "self_attn" in name]
    assert all((space.heads, space.groups, space.head_dim) == (4, 2, 8) for space in attentions(anatomy))


def test_channels_with_a_scale_of_their_own_are_not_mixed():
    config = odd("bitnet")
    assert not any(space.mixable for space in attentions(inspect_config(config)))
    teachers = [("teacher", random_model(config).float())]
    with pytest.raises(UserError, match=r"this bitnet cannot become"):
        fuse_models(teachers, 0.5, None, FusionOptions(narrowing="smaller-heads"))


def test_spaces_that_do_not_stand_keep_their_places_and_the_rest_becomes_narrower():
    config = odd("diffllama")
    anatomy = inspect_config(config)
    assert not attentions(anatomy)
    assert any("changes the answers" in reason for reason in anatomy.pinned.values())
    batches = [dummy_inputs(config, 8, 12, seed=seed) for seed in range(3)]
    student = fuse_models([("teacher", random_model(config).float())], 0.5, batches).model
    assert (student.config.hidden_size, student.config.intermediate_size) == (16, 24)
    assert (student.config.num_attention_heads, student.config.head_dim) == (4, 8)
    with torch.no_grad():
        assert all(answer.isfinite().all() for answer in all_outputs(student, batches[0]).values())


@pytest.mark.parametrize(
    ("kind", "fields", "groups"),
    [
        ("codegen", {}, 8),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, 2),
        ("falcon", {"multi_query": True}, 1),
        ("falcon", {"multi_query": False, "alibi": True}, 8),
    ],
)
def test_heads_of_fused_projections_are_those_of_the_full_model(kind, fields, groups):
    config = with_fields(odd(kind), fields)
    anatomy = inspect_config(config)
    model = random_model(config)
    inputs = dummy_inputs(config, 2, 9, dtype=torch.float64)
    assert [(space.heads, space.groups) for space in attentions(anatomy)] == 2 * [(8, groups)]
    # The proof was at four heads.
    assert permutation_error(model, inputs, anatomy, anatomy.spaces.values()) <= CERTIFICATE_TOLERANCE


def test_a_latent_beside_fixed_channels_becomes_narrower():
    config = odd("deepseek_v2")
    anatomy = inspect_config(config)
    latents = [space for space in anatomy.spaces.values() if "kv_a_proj" in space.name]
    assert [space.size for space in latents] == [16, 16]
    student = fuse_models([("teacher", random_model(config).float())], 0.5, None).model
    assert (student.config.kv_lora_rank, student.config.qk_rope_head_dim) == (8, 4)


def test_a_last_layer_with_parameters_of_its_own_is_a_layer():
    assert len(inspect_config(odd("gpt_neox_japanese")).layers) == 2


def test_heads_that_no_field_counts_are_refused_in_one_line():
    fields = _TEXT | _GROUPED | {"num_key_value_heads": 4}
    config = AutoConfig.for_model("helium", **fields)
    config.architectures = ["HeliumForCausalLM"]
    with pytest.raises(UserError, match="this helium cannot become narrower: no field of its config is known to count"):
        fuse_models([("teacher", random_model(config).float())], 0.5, None)
    assert check_recovery(config) < 1e-4


def test_a_config_that_names_no_class_is_inspected_as_its_base_model():
    config = odd("exaone4")
    config.architectures = None
    assert inspect_config(config).model_class == "Exaone4Model"
    assert config.architectures is None


def test_outputs_that_a_model_adds_to_in_place_are_captured_before():
    # Falcon adds attention to the output of its FFN in place, so a refit would have aimed at both.
    assert check_recovery(with_fields(odd("falcon"), {"multi_query": False, "alibi": True})) < 1e-10


def test_a_vector_that_all_layers_read_is_no_layers_own():
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 20}
    config = AutoConfig.for_model("deberta", **_TEXT, **relative, num_attention_heads=4, max_position_embeddings=40)
    config.architectures = ["DebertaForMaskedLM"]
    anatomy = inspect_config(config)
    assert [space.kind for space in anatomy.spaces.values() if space.kind is Kind.EMBEDDING] == [Kind.EMBEDDING]
    assert {axis.parts[0].key for axis in anatomy.axes["deberta.encoder.rel_embeddings.weight"]} == {None, "embedding"}


def test_a_sequence_classifier_with_a_decoder_answers_at_its_end_token():
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 60}
    config = AutoConfig.for_model("t5", **sizes, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    config.architectures = ["T5ForSequenceClassification"]
    assert inspect_config(config).error <= CERTIFICATE_TOLERANCE

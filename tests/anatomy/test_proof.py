"""A certificate has no holes: what it does not exercise is pinned, refused or named."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from families import config_of, family_params, tiny_model
from transformers import AutoConfig

from compressor.anatomy import (
    CERTIFICATE_TOLERANCE,
    Axis,
    Kind,
    Part,
    Side,
    Space,
    apply,
    certify,
    coverage,
    inspect_config,
    proof,
    unreached,
)
from compressor.anatomy.certificate import random_model
from compressor.anatomy.fields import Meaning, interpret
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.permutations import random_permutations
from compressor.anatomy.resize import measure_growth
from compressor.anatomy.rules import RULES
from compressor.anatomy.study import study_smallest
from compressor.errors import CertificateError, UnsupportedError, UserError
from compressor.fusion import fuse_models, self_test
from compressor.fusion.self_test import check_recovery
from compressor.models import inputs as model_inputs
from compressor.models.inputs import dummy_inputs, optional_inputs
from compressor.recipe import FusionOptions

_TEXT = {"vocab_size": 60, "max_position_embeddings": 40}
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_IMAGE = {"image_size": 16, "patch_size": 8}
#: {model type: (class, fields)} of models that read more than a plain text or image.
READERS = {
    "git": (
        "GitForCausalLM",
        _TEXT | _SIZES | {"vision_config": _SIZES | _IMAGE, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "siglip_vision_model": ("SiglipVisionModel", _SIZES | _IMAGE),
    "visual_bert": ("VisualBertModel", _TEXT | _SIZES | {"visual_embedding_dim": 12}),
    "luke": ("LukeForMaskedLM", _TEXT | _SIZES | {"entity_vocab_size": 30, "entity_emb_size": 16}),
    "longformer": ("LongformerForMaskedLM", _TEXT | _SIZES | {"attention_window": 4, "pad_token_id": 1}),
    "layoutlm": ("LayoutLMForTokenClassification", _TEXT | _SIZES | {"max_2d_position_embeddings": 50}),
}
_SLOW = ("luke", "longformer", "layoutlm")


def reader(model_type: str):
    architecture, fields = READERS[model_type]
    config = AutoConfig.for_model(model_type, **fields)
    config.architectures = [architecture]
    return config


def error_of(wanted, found):
    return max(float((found[name] - answer).abs().max() / answer.abs().max()) for name, answer in wanted.items())


@pytest.mark.parametrize("kind", family_params(tuple(READERS), tuple(set(READERS) - set(_SLOW))))
def test_every_parameter_is_exercised_or_named(kind):
    anatomy = inspect_config(reader(kind))
    reached = sum(
        math.prod(axis.size for axis in axes) for name, axes in anatomy.axes.items() if name not in anatomy.idle
    )
    assert reached / sum(math.prod(a.size for a in axes) for axes in anatomy.axes.values()) == pytest.approx(
        anatomy.proven
    )
    # What is left is dead in that class: the poolers of taggers and language models.
    assert anatomy.proven > 0.9
    assert not [name for name in anatomy.idle if "pooler" not in name and "mask_token" not in name]


def test_a_model_that_also_reads_images_is_fused_with_what_reads_them():
    teacher = random_model(reader("git"))
    student = fuse_models([("teacher", teacher)], 1.0, None).model
    text = dummy_inputs(teacher.config, 2, 7, seed=9, dtype=torch.float64)
    both = text | {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    with torch.no_grad():
        assert error_of(all_outputs(teacher, text), all_outputs(student, text)) < 1e-6
        assert error_of(all_outputs(teacher, both), all_outputs(student, both)) < 1e-6


def test_calibration_samples_that_leave_modules_out_are_refused_by_name():
    teacher = random_model(reader("git")).float()
    with pytest.raises(UserError, match=r"teacher: the calibration samples do not run git\.image_encoder"):
        fuse_models([("teacher", teacher)], 1.0, [dummy_inputs(teacher.config, 4, 8)])


@pytest.mark.parametrize("kind", ["git", pytest.param("luke", marks=pytest.mark.slow)])
def test_what_sizes_parameters_that_no_trial_reaches_keeps_its_value(kind, monkeypatch):
    config = reader(kind)
    config.max_position_embeddings = 44  # not the cached one
    teacher = random_model(config)
    text = dummy_inputs(teacher.config, 2, 7, seed=9, dtype=torch.float64)
    everything = text | optional_inputs(teacher, teacher.config, text)
    for name in ("pixel_values", "entity_ids"):
        monkeypatch.delitem(model_inputs.MAKERS, name)
    anatomy = inspect_config(config)
    assert all(space.placed for space in anatomy.residuals) and not anatomy.idle
    assert Meaning.HIDDEN.value not in anatomy.fields.values() and anatomy.fields["intermediate_size"] == "ffn"
    assert re.search("pixel_values|entity_ids", anatomy.pinned[anatomy.residual.name])
    for name in [name for name in anatomy.pinned if name in anatomy.axes]:
        assert all(axis.fixed for axis in anatomy.axes[name])
    with torch.no_grad():
        before = all_outputs(teacher, everything)
        student = fuse_models([("teacher", teacher)], 1.0, None).model
        assert error_of(before, all_outputs(student, everything)) < 1e-6


def test_what_no_trial_reaches_is_refused_by_name_where_nothing_else_could_become_narrower(monkeypatch):
    skeleton = measure_growth(config_of("bert"), 3)
    found = study_smallest(skeleton)
    sizes = interpret(skeleton, found.config, found.table, lambda changed: found.like(changed, skeleton).table)
    monkeypatch.setattr(unreached, "untried_inputs", lambda study: ["pixel_values"])
    blind = replace(found, unreached=tuple(found.table.axes))
    with pytest.raises(CertificateError, match=r"no trial input reaches .*embeddings.*reads pixel_values"):
        unreached.keep_unproven(blind, found.anatomy(), skeleton, sizes)


@pytest.fixture(scope="module")
def studied():
    """A study of a tiny BERT, and its anatomy."""
    found = study_smallest(measure_growth(config_of("bert"), 3))
    return found, found.anatomy()


def test_every_space_of_a_right_anatomy_is_sensitive_to_a_wrong_map(studied):
    found, anatomy = studied
    changes = coverage.sensitivity(found.model, found.trials, anatomy)
    assert changes.keys() == anatomy.spaces.keys()
    assert min(changes.values()) > 100 * CERTIFICATE_TOLERANCE


def test_a_stream_whose_wrong_map_changes_nothing_keeps_its_coordinates(studied):
    found, anatomy = studied
    weight = found.model.get_parameter("classifier.weight")
    before = weight.clone()
    try:
        weight.zero_()
        pinned = proof.pin_insensitive(found, anatomy)
    finally:
        weight.copy_(before)
    assert pinned.residual.placed and pinned.residual.name in pinned.pinned
    assert [space.name for space in pinned.spaces.values()] == [pinned.residual.name]


def test_a_space_whose_wrong_map_changes_nothing_is_pinned(studied):
    found, anatomy = studied
    name = "bert.encoder.layer.0.ffn"
    weight = found.model.get_parameter("bert.encoder.layer.0.output.dense.weight")
    before = weight.clone()
    try:
        weight.zero_()  # what reads the units no longer does
        pinned = proof.pin_insensitive(found, anatomy)
    finally:
        weight.copy_(before)
    assert set(pinned.pinned) == {name}
    assert set(anatomy.spaces) - set(pinned.spaces) == {name}
    assert all(
        axis.fixed or axis.roles_in("residual") is not None for axis in pinned.axes[anatomy.parameters_of(name)[0]]
    )
    assert certify(found.model, found.trials, pinned)["all"] < CERTIFICATE_TOLERANCE


def test_an_attention_whose_keys_nobody_reads_is_not_proven(studied):
    found, anatomy = studied
    name = next(space.name for space in anatomy.spaces.values() if space.kind is Kind.ATTENTION)
    queries = [n for n in found.traced.parameters if n.startswith(name) and ".query." in n]
    before = {query: found.model.get_parameter(query).clone() for query in queries}
    try:
        for query in queries:
            found.model.get_parameter(query).zero_()
        assert name in proof.pin_insensitive(found, anatomy).pinned
    finally:
        for query, value in before.items():
            found.model.get_parameter(query).copy_(value)


def test_a_broken_anatomy_ends_in_a_certificate_error_that_names_the_space(studied):
    found, anatomy = studied
    name = "bert.encoder.layer.1.ffn"
    wrong = replace(anatomy, spaces={**anatomy.spaces, name: Space(name, Kind.HIDDEN, 7)})
    with pytest.raises(CertificateError, match=rf"permuting {name} \(bert.encoder.layer.1.intermediate.dense.weight"):
        certify(found.model, found.trials, wrong)
    (axis,) = anatomy.axes["bert.encoder.layer.1.intermediate.dense.bias"]
    short = (Axis((Part(axis.parts[0].key, 5),), Side.WRITE),)
    wrong = replace(anatomy, axes={**anatomy.axes, "bert.encoder.layer.1.intermediate.dense.bias": short})
    with pytest.raises(CertificateError, match=rf"permuting {name}"):
        certify(found.model, found.trials, wrong)


@pytest.mark.parametrize("fault", [ValueError, KeyError, IndexError, AttributeError, StopIteration, "sizes"])
def test_a_rule_that_fails_pins_what_goes_into_it_and_says_so(fault, monkeypatch):
    def broken(*_):
        if fault == "sizes":
            return []
        raise fault("broken")

    monkeypatch.setitem(RULES, "relu", broken)
    config = config_of("vit")
    config.hidden_act, config.layer_norm_eps = "relu", 1e-7  # not the cached one
    anatomy = inspect_config(config)
    assert not [space for space in anatomy.spaces.values() if space.kind is Kind.HIDDEN]
    assert anatomy.error < 1e-9
    found = study_smallest(measure_growth(config, 3))
    assert found.unknown_operations() == "; operations without a rule: relu (its rule failed)"


def test_trials_have_padding_two_lengths_and_every_other_input():
    found = study_smallest(measure_growth(config_of("bert"), 3))
    lengths = {trial["input_ids"].shape[1] for trial in found.trials}
    assert len(lengths) == 2
    assert any(not trial["attention_mask"].all() for trial in found.trials)
    assert any(trial["attention_mask"].all() for trial in found.trials)
    assert any("token_type_ids" in trial for trial in found.trials)


def test_windows_are_shorter_than_the_longer_trial():
    config = config_of("mistral")
    found = study_smallest(measure_growth(config, 3))
    assert max(trial["input_ids"].shape[1] for trial in found.trials) > config.sliding_window


def test_optional_inputs_are_those_that_the_signature_names():
    model = random_model(reader("longformer"))
    made = optional_inputs(model, model.config, dummy_inputs(model.config, 2, 8))
    assert made["global_attention_mask"].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]] * 2
    model = random_model(config_of("gpt2"))
    assert "global_attention_mask" not in optional_inputs(model, model.config, dummy_inputs(model.config, 2, 8))


def test_a_width_that_shrinks_fixed_coordinates_is_refused_by_name():
    teacher = random_model(reader("longformer")).float()
    batches = [dummy_inputs(teacher.config, 4, 8)]
    with pytest.raises(
        UnsupportedError, match=r"longformer cannot become narrower: .*query.weight, axis 0, would shrink"
    ):
        fuse_models([("teacher", teacher)], 0.5, batches)


def test_stored_values_that_are_no_parameters_are_carried_over():
    config = AutoConfig.for_model(
        "glm4_moe", vocab_size=60, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, n_routed_experts=4, num_experts_per_tok=2,
        n_group=1, topk_group=1, max_position_embeddings=40, first_k_dense_replace=1, pad_token_id=0,
    )  # fmt: skip
    config.architectures = ["Glm4MoeForCausalLM"]
    teacher = random_model(config)
    student = fuse_models([("teacher", teacher)], 1.0, [dummy_inputs(config, 8, 9, dtype=torch.float64)]).model
    stored = {name: b for name, b in teacher.named_buffers() if name in teacher.state_dict()}
    assert stored
    for name, buffer in stored.items():
        assert torch.allclose(student.get_buffer(name), buffer)


@pytest.mark.parametrize("family", family_params(fast=("vit", "llama")))
def test_a_teacher_fused_by_itself_at_width_one_is_itself(family):
    assert check_recovery(config_of(family)) < 1e-6


@pytest.mark.parametrize("family", family_params(fast=("vit",)))
def test_a_permuted_copy_fused_with_its_model_gives_it_back(family):
    model = tiny_model(config_of(family))
    anatomy = inspect_config(model.config)
    maps = random_permutations(anatomy.spaces.values(), torch.Generator().manual_seed(2))
    copy = tiny_model(config_of(family))
    for name, value in apply(maps, dict(model.named_parameters()), anatomy).items():
        copy.get_parameter(name).copy_(value)
    batches = [dummy_inputs(model.config, 12, 10, seed=seed, dtype=torch.float64) for seed in range(6)]
    student = fuse_models(
        [("model", model), ("copy", copy)], 1.0, batches, FusionOptions(narrowing="fewer-heads")
    ).model
    unseen = dummy_inputs(model.config, 4, 10, seed=77, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = all_outputs(model, unseen), all_outputs(student, unseen)
    if anatomy.outputs:  # features come in another order
        wanted, found = (
            {n: x.flatten(0, -2) @ x.flatten(0, -2).T for n, x in each.items()} for each in (wanted, found)
        )
    assert error_of(wanted, found) < 1e-5


def test_a_failed_self_test_is_one_line(monkeypatch):
    def spoiled(teachers, *arguments):
        result = fuse_models(teachers, *arguments)
        next(result.model.parameters()).mul_(1.5)
        return result

    monkeypatch.setattr(self_test, "_RECOVERED", {})
    monkeypatch.setattr(self_test, "fuse_models", spoiled)
    with pytest.raises(CertificateError, match=r"vit: a small random model of this config, fused by itself at width 1"):
        check_recovery(config_of("vit"))


def test_a_layer_spread_over_several_lists_is_as_many_stacks_and_its_hidden_units_are_no_stream():
    sizes = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 60, "max_position_embeddings": 40}
    config = AutoConfig.for_model("xlm", **sizes)
    config.architectures = ["XLMWithLMHeadModel"]
    anatomy = inspect_config(config)
    assert [stack.layers[0].partition(".")[2] for stack in anatomy.stacks] == [
        "attentions.0", "ffns.0", "attentions.1", "ffns.1",
    ]  # fmt: skip
    assert [(space.name, space.size) for space in anatomy.residuals] == [("residual", 32)]
    assert not anatomy.pinned
    assert check_recovery(config) <= self_test.RECOVERY_TOLERANCE

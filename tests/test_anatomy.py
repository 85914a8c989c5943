"""The anatomy is inferred, proven, and refuses what it does not understand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, config_of, tiny_model
from transformers import LlamaConfig, ViTConfig

from compressor.anatomy import TOLERANCE, Kind, Map, Side, apply, canonicalise, certify, inspect_config
from compressor.anatomy.certificate import logits_change, random_permutation
from compressor.anatomy.trace import logits_of
from compressor.errors import UnsupportedError
from compressor.models.inputs import dummy_inputs


@pytest.fixture(scope="module", params=FAMILIES)
def studied(request):
    """(config, random float64 model, anatomy, inputs) of every supported family."""
    config = config_of(request.param)
    return config, tiny_model(config), inspect_config(config), dummy_inputs(config, 3, 10, dtype=torch.float64)


class TestEveryFamily:
    """The contract that an architecture has to keep to be fused."""

    def test_certificate_holds_for_every_space_alone_and_together(self, studied):
        config, _, anatomy, _ = studied
        bound = TOLERANCE if config.model_type == "llama" else 1e-9  # Llama computes norms in float32 whatever its type
        assert set(anatomy.errors) == {*anatomy.spaces, "all"} or len(anatomy.layers) > 2
        assert anatomy.error < bound

    def test_certificate_also_holds_on_the_model_at_its_own_size(self, studied):
        _, model, anatomy, inputs = studied
        assert max(certify(model, inputs, anatomy, seed=7).values()) < TOLERANCE

    def test_certificate_fails_when_one_axis_is_mislabelled(self, studied):
        _, model, anatomy, inputs = studied
        step = next(step for step in anatomy.steps if step.writes == anatomy.residual.name)
        name = f"{step.module}.weight"
        still = tuple(
            replace(axis, parts=tuple(replace(part, key=None) for part in axis.parts))
            if axis.side is Side.WRITE
            else axis
            for axis in anatomy.axes[name]
        )
        broken = replace(anatomy, axes={**anatomy.axes, name: still})
        assert certify(model, inputs, broken)["residual"] > 1e-3

    def test_permutations_do_change_the_weights(self, studied):
        _, model, anatomy, _ = studied
        maps = {}
        for space in anatomy.spaces.values():
            maps |= random_permutation(space, torch.Generator().manual_seed(0))
        moved = apply(maps, dict(model.named_parameters()), anatomy)
        unmoved = [
            n
            for n, p in model.named_parameters()
            if torch.equal(moved[n], p.double()) and not all(axis.fixed for axis in anatomy.axes[n])
        ]
        assert not unmoved

    def test_every_layer_has_one_attention_and_one_hidden_space(self, studied):
        _, _, anatomy, _ = studied
        for layer in anatomy.layers:
            kinds = sorted(s.kind for s in anatomy.spaces.values() if s.name.startswith(layer + "."))
            assert kinds == [Kind.ATTENTION, Kind.HIDDEN]

    def test_axis_sizes_are_the_parameters_sizes(self, studied):
        _, model, anatomy, _ = studied
        for name, parameter in model.named_parameters():
            assert tuple(axis.size for axis in anatomy.axes[name]) == tuple(parameter.shape)

    def test_canonical_form_computes_the_same(self, studied):
        _, model, anatomy, inputs = studied
        if not anatomy.canonical:
            assert any(not norm.folded for norm in anatomy.norms)
            return
        state = canonicalise(dict(model.named_parameters()), anatomy)
        assert logits_change(model, inputs, state) < TOLERANCE
        for norm in anatomy.norms:
            assert torch.all(state[f"{norm.module}.weight"] == 1)

    def test_every_residual_writer_in_a_layer_has_its_checkpoint(self, studied):
        _, _, anatomy, _ = studied
        writers = [s for s in anatomy.steps if s.writes == "residual" and s.module.startswith(tuple(anatomy.layers))]
        assert len(writers) == 2 * len(anatomy.layers)
        assert all(step.checkpoint is not None for step in writers)


def test_identity_maps_leave_weights_alone():
    config = config_of("vit")
    model, anatomy = tiny_model(config), inspect_config(config)
    eye = torch.eye(config.hidden_size, dtype=torch.float64)
    moved = apply({"residual": Map(eye, eye)}, dict(model.named_parameters()), anatomy)
    assert all(torch.equal(moved[name], parameter) for name, parameter in model.named_parameters())


def test_grouped_heads_and_rotary_positions_are_seen():
    attention = next(s for s in inspect_config(config_of("llama")).spaces.values() if s.kind is Kind.ATTENTION)
    assert (attention.heads, attention.groups, attention.head_dim, attention.rotary) == (4, 2, 8, True)


def test_fused_query_key_value_is_taken_apart():
    anatomy = inspect_config(config_of("gpt2"))
    axis = anatomy.axes["transformer.h.0.attn.c_attn.weight"][1]
    assert [part.key.rpartition("/")[2] for part in axis.parts] == ["query", "key", "value"]


def test_post_norm_blocks_are_not_canonical_and_pre_norm_ones_are():
    canonical = {family: inspect_config(config_of(family)).canonical for family in FAMILIES}
    # GPT-2's head shares its weight with the embedding, so its last norm cannot be folded.
    expected = {"vit": True, "deit": True, "llama": True, "bert": False, "roberta": False, "gpt2": False}
    assert canonical == expected


def test_base_sizes_take_seconds_and_no_memory():
    config = LlamaConfig(num_key_value_heads=8)  # 7B parameters: only its shapes may exist
    config.architectures = ["LlamaForCausalLM"]
    start = time.perf_counter()
    anatomy = inspect_config(config)
    assert len(anatomy.layers) == 32
    assert time.perf_counter() - start < 20


def test_an_unknown_class_is_refused_by_name():
    config = ViTConfig(num_hidden_layers=2)
    config.architectures = ["ViTForTelepathy"]
    with pytest.raises(UnsupportedError, match="ViTForTelepathy"):
        inspect_config(config)


def test_inspection_is_deterministic_and_leaves_the_random_state_alone():
    config = config_of("bert")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = inspect_config(config)
    assert torch.equal(before, torch.get_rng_state())
    assert first.axes == inspect_config(config).axes


def test_logits_are_finite():
    for family in FAMILIES:
        config = config_of(family)
        assert torch.isfinite(logits_of(tiny_model(config), dummy_inputs(config, dtype=torch.float64))).all()

"""The anatomy is inferred, proven, and refuses what it does not understand."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, config_of, family_params, tiny_model, widen
from transformers import LlamaConfig, ViTConfig

from compressor.anatomy import (
    CERTIFICATE_TOLERANCE,
    Kind,
    Map,
    Side,
    apply,
    canonicalise,
    certify,
    infer,
    inspect_config,
)
from compressor.anatomy.certificate import certify_jointly, logits_change, random_permutations
from compressor.anatomy.hooks import logits_of
from compressor.anatomy.rules import RULES
from compressor.errors import CertificateError, UnsupportedError
from compressor.models.inputs import dummy_inputs

#: Families that compute norms, rotary angles or softmax in float32 whatever the model's type.
SINGLE = {"gpt-neo", "llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "granite", "olmo2", "mixtral", "t5"}


@pytest.fixture(scope="module", params=family_params())
def studied(request):
    """(config, random float64 model, anatomy, inputs) of every supported family."""
    config = config_of(request.param)
    return request.param, tiny_model(config), inspect_config(config), dummy_inputs(config, 3, 10, dtype=torch.float64)


class TestEveryFamily:
    """The contract that an architecture has to keep to be fused."""

    def test_certificate_holds_for_all_spaces_together(self, studied):
        family, _, anatomy, _ = studied
        assert anatomy.error < (CERTIFICATE_TOLERANCE if family in SINGLE else 1e-9)

    def test_certificate_also_holds_on_the_model_at_its_own_size(self, studied):
        _, model, anatomy, inputs = studied
        assert max(certify(model, inputs, anatomy, seed=7).values()) < CERTIFICATE_TOLERANCE
        assert certify_jointly(model, inputs, anatomy)["all"] < CERTIFICATE_TOLERANCE

    def test_certificate_fails_when_one_axis_is_mislabelled(self, studied):
        _, model, anatomy, inputs = studied
        step = next(step for step in anatomy.steps if step.writes == anatomy.residual.name)
        still = tuple(
            replace(axis, parts=tuple(replace(part, key=None) for part in axis.parts))
            if axis.side is Side.WRITE
            else axis
            for axis in anatomy.axes[step.weight]
        )
        broken = replace(anatomy, axes={**anatomy.axes, step.weight: still})
        assert certify(model, inputs, broken)[anatomy.residual.name] > 1e-3
        assert certify_jointly(model, inputs, broken)["all"] > 1e-3

    def test_permutations_do_change_the_weights(self, studied):
        _, model, anatomy, _ = studied
        maps = random_permutations(anatomy.spaces.values(), torch.Generator().manual_seed(0))
        moved = apply(maps, dict(model.named_parameters()), anatomy)
        unmoved = [
            name
            for name, parameter in model.named_parameters()
            if torch.equal(moved[name], parameter.double()) and _movable(anatomy, name)
        ]
        assert not unmoved

    def test_every_layer_has_attention_and_hidden_units(self, studied):
        _, _, anatomy, _ = studied
        for layer in anatomy.layers:
            kinds = {s.kind for s in anatomy.spaces.values() if s.name.startswith(layer + ".")}
            assert kinds >= {Kind.ATTENTION, Kind.HIDDEN}

    def test_axis_sizes_are_the_parameters_sizes(self, studied):
        _, model, anatomy, _ = studied
        for name, parameter in model.named_parameters():
            assert tuple(axis.size for axis in anatomy.axes[name]) == tuple(parameter.shape)

    def test_every_parameter_that_a_width_resizes_has_an_axis_in_a_space(self, studied):
        _, model, anatomy, _ = studied
        wide = widen(model)
        for name, parameter in wide.named_parameters():
            for size, twice, axis in zip(
                model.get_parameter(name).shape, parameter.shape, anatomy.axes[name], strict=True
            ):
                assert (size == twice) or not axis.fixed

    def test_widening_preserves_the_function(self, studied):
        family, model, _, inputs = studied
        wanted, found = logits_of(model, inputs), logits_of(widen(model), inputs)
        if inspect_config(model.config).output:
            # Features are duplicated and shuffled: what stays is how samples compare.
            wanted, found = (
                x.reshape(-1, x.shape[-1]) @ x.reshape(-1, x.shape[-1]).T / x.shape[-1] for x in (wanted, found)
            )
        assert float((found - wanted).abs().max() / wanted.abs().max()) < (1e-5 if family in SINGLE else 1e-9)

    def test_canonical_form_computes_the_same(self, studied):
        _, model, anatomy, inputs = studied
        state = canonicalise(dict(model.named_parameters()), anatomy)
        assert logits_change(model, inputs, state) < CERTIFICATE_TOLERANCE
        for norm in anatomy.norms:
            if norm.folded and anatomy.rotatable(norm.space):
                assert torch.all(state[f"{norm.module}.weight"] == norm.unit_scale)

    def test_what_adds_to_the_residual_stream_in_a_layer_is_seen_behind_it(self, studied):
        _, _, anatomy, _ = studied
        streams = {space.name for space in anatomy.residuals}
        behind = [item.module for item in anatomy.flow if item.checkpoint is not None]
        for layer in anatomy.layers:
            writers = [s for s in anatomy.steps if s.writes in streams and s.module.startswith(layer + ".")]
            assert writers
            assert any(module.startswith(layer + ".") for module in behind)


def _movable(anatomy, name: str) -> bool:
    """Whether a permutation can change this parameter: some axis holds more than heads or channels in place."""
    keys = [part.key for axis in anatomy.axes[name] for part in axis.parts if part.key]
    still = {space.name for space in anatomy.spaces.values() if space.rotary or space.head_position_fixed}
    return any(key.partition("/")[0] not in still for key in keys)


def test_identity_maps_leave_weights_alone():
    config = config_of("vit")
    model, anatomy = tiny_model(config), inspect_config(config)
    eye = torch.eye(config.hidden_size, dtype=torch.float64)
    moved = apply({"residual": Map(eye, eye)}, dict(model.named_parameters()), anatomy)
    assert all(torch.equal(moved[name], parameter) for name, parameter in model.named_parameters())


def attention_of(family: str):
    return next(s for s in inspect_config(config_of(family)).spaces.values() if s.kind is Kind.ATTENTION)


def test_grouped_heads_and_rotary_positions_are_seen():
    found = attention_of("llama")
    assert (found.heads, found.groups, found.head_dim, found.rotary) == (4, 2, 8, True)


def test_one_group_is_told_from_its_channels():
    config = config_of("llama")
    config.num_key_value_heads = 1
    found = next(s for s in inspect_config(config).spaces.values() if s.kind is Kind.ATTENTION)
    assert (found.heads, found.groups, found.head_dim) == (4, 1, 8)


def test_heads_with_slopes_have_a_place_and_heads_with_a_common_bias_an_order():
    assert attention_of("bloom").head_position_fixed
    assert attention_of("t5").order is not None
    assert not attention_of("bert").head_position_fixed


def test_encoder_and_decoder_are_two_stacks_and_share_a_stream_only_if_they_share_an_embedding():
    whisper, bart = inspect_config(config_of("whisper")), inspect_config(config_of("bart"))
    assert [len(stack.layers) for stack in whisper.stacks] == [2, 2]
    assert len(whisper.residuals) == 2
    assert len(bart.residuals) == 1


def test_experts_and_their_units_are_spaces():
    spaces = inspect_config(config_of("mixtral")).spaces
    units = next(space for space in spaces.values() if space.copies > 1)
    assert spaces[units.experts].kind is Kind.EXPERTS
    assert spaces[units.experts].size == units.copies == 4


def test_shared_layers_are_one_layer_that_runs_several_times():
    (stack,) = inspect_config(config_of("albert")).stacks
    assert (len(stack.layers), stack.runs) == (1, 2)


def test_factorised_embeddings_are_a_space_of_their_own():
    for family in ("albert", "electra", "opt"):
        kinds = {s.kind: s.size for s in inspect_config(config_of(family)).spaces.values()}
        assert kinds[Kind.EMBEDDING] == 24


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "phi3", "modernbert", "bloom"])
def test_fused_query_key_value_is_taken_apart(family):
    axes = [axis for found in inspect_config(config_of(family)).axes.values() for axis in found if len(axis.parts) == 3]
    for axis in axes:
        assert [part.key.rpartition("/")[2] for part in axis.parts] == ["query", "key", "value"]
    assert axes


def test_fields_are_told_apart():
    wanted = {
        "hidden_size": "hidden", "intermediate_size": "ffn", "num_attention_heads": "heads", "head_dim": "head_dim",
        "num_key_value_heads": "groups", "num_hidden_layers": "depth", "vocab_size": "fixed",
    }  # fmt: skip
    assert wanted.items() <= inspect_config(config_of("llama")).fields.items()


def test_post_norm_and_sandwich_norm_cannot_be_rotated_and_pre_norm_can():
    def rotatable(family):
        return inspect_config(config_of(family)).canonical

    assert not any(rotatable(family) for family in ("bert", "roberta", "bart", "gemma2", "olmo2", "clip-text"))
    assert all(
        rotatable(family) for family in ("vit", "dinov2", "beit", "llama", "mixtral", "gpt-neox", "t5", "whisper")
    )


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


def test_a_certificate_that_fails_names_the_space_its_parameters_and_what_to_do(monkeypatch):
    config = config_of("deit")
    config.hidden_act = "relu"
    space = "deit.layers.0.ffn"
    monkeypatch.setattr(infer, "certify", lambda *_: {space: 0.2, "all": 0.1})
    monkeypatch.setattr(infer, "certify_jointly", lambda *_: {"all": 0.1})
    with pytest.raises(CertificateError, match=rf"permuting {space} changes the logits by 2.0e-01.*fc1.weight.*rules"):
        inspect_config(config)


def test_an_operation_without_a_rule_pins_what_goes_into_it(monkeypatch):
    config = config_of("vit")
    config.hidden_act = "relu"
    monkeypatch.delitem(RULES, "relu")
    anatomy = inspect_config(config)
    hidden = [space for space in anatomy.spaces.values() if space.kind is Kind.HIDDEN]
    assert not hidden
    assert anatomy.error < 1e-9


def test_configs_that_differ_in_size_alone_are_proven_once(monkeypatch):
    monkeypatch.setattr(infer, "_PROVEN", {})
    monkeypatch.setattr(infer, "_KNOWN", {})
    proofs = []
    certify = infer.certify_jointly
    monkeypatch.setattr(infer, "certify_jointly", lambda *given: proofs.append(1) or certify(*given))
    wide, narrow = config_of("llama"), config_of("llama")
    wide.hidden_size, wide.intermediate_size = 2 * narrow.hidden_size, 3 * narrow.intermediate_size
    one, other = inspect_config(wide), inspect_config(narrow)
    assert len(proofs) == 1
    assert (one.residual.size, other.residual.size) == (wide.hidden_size, narrow.hidden_size)
    assert one.errors == other.errors
    monkeypatch.setattr(infer, "_PROVEN", {})
    monkeypatch.setattr(infer, "_KNOWN", {})
    assert inspect_config(narrow) == other


def test_a_space_describes_its_writers_and_readers():
    anatomy = inspect_config(config_of("gpt2"))
    assert anatomy.describe("transformer.h.1.attn").splitlines() == [
        "transformer.h.1.attn: attention, 32 coordinates, 4 heads of 8",
        "  written by transformer.h.1.attn.c_attn.weight, axis 1: query, key, value",
        "  written by transformer.h.1.attn.c_attn.bias, axis 0: query, key, value",
        "  read by transformer.h.1.attn.c_proj.weight, axis 0: output",
    ]
    residual = anatomy.describe("residual").splitlines()
    assert residual[0] == "residual: residual, 32 coordinates"
    assert "  written by transformer.h.*.mlp.c_proj.weight (2 times), axis 1" in residual
    assert "  normalised by transformer.ln_f.weight, axis 0" in residual
    assert residual[-1] == "  read by transformer.wte.weight, tied"


@pytest.mark.parametrize("family", ["vit", "bert", "mixtral", "t5"])
def test_the_descriptions_of_all_spaces_name_every_parameter_with_interchangeable_axes(family):
    anatomy = inspect_config(config_of(family))
    described = {name for space in anatomy.spaces for _, name, _ in anatomy._uses(space)}
    assert described == {name for name, axes in anatomy.axes.items() if not all(axis.fixed for axis in axes)}

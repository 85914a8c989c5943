"""Rotary heads made smaller: how pairs are found, which go together, and what is kept exactly."""

import pytest
import torch
from families import batches_of, config_of, tiny_model
from transformers import CohereConfig

from compressor.anatomy import Kind, inspect_config
from compressor.anatomy.rotary_pairs import HALVES, LAYOUTS, NEIGHBOURS, frequencies, pairs
from compressor.errors import UserError
from compressor.fusion import fuse_models, student_specs
from compressor.fusion.maps.attention.rotary import RotaryPairs, match_frequencies, rotary_product, select_pairs
from compressor.recipe import FusionOptions

SMALLER = FusionOptions(narrowing="smaller-heads")


def layouts(config):
    return {space.pairs for space in inspect_config(config).spaces.values() if space.kind is Kind.ATTENTION}


def logits(queries, keys, angles, layout, distance):
    """Re Σ_p q_p* k_p exp(iω_p Δ), and the products of the channels that stay."""
    first, second = pairs(layout, len(angles))
    turned = torch.complex(queries[:, first], queries[:, second]).conj() @ torch.diag(
        torch.polar(torch.ones_like(angles), angles * distance)
    )
    rest = 2 * len(angles)
    return (turned @ torch.complex(keys[:, first], keys[:, second]).T).real + queries[:, rest:] @ keys[:, rest:].T


@pytest.mark.parametrize("family", ["llama", "gpt-neox", "phi3", "gemma2", "mixtral"])
def test_pairs_are_found_by_turning_them(family):
    assert layouts(config_of(family)) == {HALVES}


@pytest.mark.parametrize("groups", [2, 4])
def test_neighbouring_pairs_are_told_from_halves(groups):
    config = CohereConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=groups, pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=40,
        architectures=["CohereForCausalLM"],
    )  # fmt: skip
    assert layouts(config) == {NEIGHBOURS}


@pytest.mark.parametrize("family", ["qwen3", "olmo2", "modernbert"])
def test_a_scale_per_channel_and_unlike_layers_pin_pairs(family):
    assert layouts(config_of(family)) == {""}
    with pytest.raises(UserError, match="cannot become smaller"):
        fuse_models([("a", tiny_model(config_of(family)))], 0.5, None, SMALLER)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rest", [0, 4])
def test_what_silent_pairs_leave_is_kept_exactly(layout, rest):
    torch.manual_seed(0)
    angles = 100.0 ** -(torch.arange(4) / 4).double()
    queries, keys = torch.randn(2, 50, 8 + rest).double()
    first, second = pairs(layout, 4)
    for silent in (1, 3):
        queries[:, [first[silent], second[silent]]] = 0
    if rest:
        queries[:, 10:] = 0
    turns = RotaryPairs(layout, 4, ((0, 1), (2, 3)))
    a, b = rotary_product(queries.T @ queries, keys.T @ keys, 4 + rest // 2, turns)
    for distance in (0, 3, 17):
        wanted = logits(queries, keys, angles, layout, distance)
        found = logits(queries @ a, keys @ b, angles[::2], layout, distance)
        assert torch.allclose(found, wanted, atol=1e-9)


def test_pairs_that_turn_alike_lose_less_together_than_the_nearest_alone():
    torch.manual_seed(0)
    angles = torch.tensor([1.0, 0.3, 0.001, 0.0009]).double()
    shared = torch.randn(200, 2).double()
    queries, keys = 0.1 * torch.randn(2, 200, 8).double()
    for pair in (2, 3):
        queries[:, [pair, pair + 4]] += shared
        keys[:, [pair, pair + 4]] += shared.flip(1)
    turns = RotaryPairs(HALVES, 4, ((0,), (1,), (2, 3)))
    a, b = rotary_product(queries.T @ queries, keys.T @ keys, 6, turns)
    alone = select_pairs(8, 6, turns)
    wanted = logits(queries, keys, angles, HALVES, 5)
    merged = logits(queries @ a, keys @ b, angles[:3], HALVES, 5)
    nearest = logits(queries @ alone, keys @ alone, angles[:3], HALVES, 5)
    assert (merged - wanted).norm() < 0.2 * (nearest - wanted).norm()


def test_smaller_heads_have_the_first_frequencies_or_some_spread_over_all():
    teacher = tiny_model(config_of("llama"))
    theirs = frequencies(teacher)
    found = fuse_models([("a", teacher)], 0.5, batches_of(teacher.config), SMALLER)
    own = frequencies(found.model)
    assert found.model.config.head_dim == 4 and found.model.config.num_attention_heads == 4
    assert torch.allclose(own, theirs[:2]) or torch.allclose(own, theirs[::2])
    assert sum(map(len, match_frequencies([teacher], found.model, HALVES).members)) == len(theirs)


def test_heads_that_keep_their_size_keep_their_base():
    config = config_of("llama")
    (target,) = student_specs(config, inspect_config(config), 1.0)
    assert target.config.rope_parameters == config.rope_parameters and "rope_theta" not in target.fields


def test_unlike_frequencies_keep_whole_heads():
    one, other = tiny_model(config_of("llama")), config_of("llama")
    other.rope_parameters = {**other.rope_parameters, "rope_theta": 500.0}
    teachers = [("a", one), ("b", tiny_model(other, 1))]
    with pytest.raises(UserError, match="rotary positions are not alike"):
        fuse_models(teachers, 0.5, batches_of(one.config), SMALLER)
    found = fuse_models(teachers, 0.5, batches_of(one.config))
    assert found.model.config.head_dim == one.config.head_dim


def test_slices_of_rotary_heads_keep_the_nearest_pairs():
    teacher = tiny_model(config_of("llama"))
    options = FusionOptions(residual="slice", inner="slice", refit=False, narrowing="smaller-heads")
    assert fuse_models([("a", teacher)], 0.5, batches_of(teacher.config), options).model.config.head_dim == 4

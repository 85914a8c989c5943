"""Teachers that are not as others are: half precision, dead parts, first layers of their own, windows, fused heads."""

from __future__ import annotations

import math

import pytest
import torch
from families import batches_of, config_of, tiny_model, widen

import compressor
from compressor.anatomy import Map, Role, apply, inspect_config, map_key
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.errors import UserError
from compressor.fusion import fuse_models
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.token_filters import token_masks
from compressor.fusion.teacher import prepare_teacher
from compressor.models.inputs import dummy_inputs
from compressor.models.precision import in_single
from compressor.recipe import FusionOptions
from compressor.testing.tiny_configs import tiny_config


def named(family: str, seed: int = 0, **fields):
    return f"{family}-{seed}", random_model(tiny_config(family, **fields), seed)


def finite(model) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


def kl(model, teachers, config, **inputs) -> float:
    batches = [dummy_inputs(config, 16, 12, seed=7, **inputs)]
    shares = [1 / len(teachers)] * len(teachers)
    return mean_kl(model, batches, [ensemble_predictions(teachers, shares, batch) for batch in batches])


def in_precision(batch, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


class TestHalfPrecision:
    @pytest.mark.parametrize(
        ("family", "dtype"),
        [
            ("llama", torch.bfloat16),
            ("vit", torch.float16),
            pytest.param("llama", torch.float16, marks=pytest.mark.slow),
            pytest.param("vit", torch.bfloat16, marks=pytest.mark.slow),
        ],
    )
    def test_it_is_fused_as_in_single_precision(self, family, dtype):
        halves = [model.to(dtype) for _, model in (named(family, 0), named(family, 1))]
        singles = [in_single(model) for model in halves]
        batches = batches_of(halves[0].config, 4, 24)
        # Near ties among pilots are not what is compared.
        named_choice = {"residual": "readers", "inner": "select", "narrowing": "fewer-heads"}
        half = compressor.fuse(halves, 0.5, [in_precision(batch, dtype) for batch in batches], **named_choice)
        single = compressor.fuse(
            singles, 0.5, [in_precision(batch, torch.float32) for batch in batches], **named_choice
        )
        assert {p.dtype for p in half.model.parameters()} == {dtype}
        assert {p.dtype for p in halves[0].parameters()} == {dtype}, "teachers stay as they are"
        distances = [
            kl(model.double(), [one.double() for one in singles], singles[0].config, dtype=torch.float64)
            # Stored in half precision the other student is rounded too.
            for model in (half.model, single.model.to(dtype))
        ]
        assert distances[0] < 1.2 * distances[1]

    def test_rotary_frequencies_are_whole_again(self):
        _, model = named("llama")
        frequencies = model.model.rotary_emb.inv_freq.clone()
        assert torch.equal(in_single(model.half()).model.rotary_emb.inv_freq, frequencies.float())

    def test_a_student_in_half_precision_learns_small_steps(self, tmp_path):
        teachers = [model.float() for _, model in (named("llama", 0), named("llama", 1))]
        config = teachers[0].config
        samples = [{k: v[i] for k, v in b.items()} for b in batches_of(config, 2, 16) for i in range(16)]
        student = compressor.fuse(teachers, 0.5, batches_of(config, 4, 24)).model
        before = kl(student, teachers, config)
        student = student.to(torch.bfloat16)
        compressor.distill(student, teachers, samples, work_dir=tmp_path / "work", steps=30, batch_size=16)
        assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
        assert kl(student.float(), teachers, config) < 0.97 * before


class TestDeadParts:
    @pytest.mark.parametrize("part", ["v_proj", "o_proj", "q_proj", "gate_proj"])
    @pytest.mark.parametrize("narrowing", ["auto", pytest.param("fewer-heads", marks=pytest.mark.slow)])
    def test_a_layer_that_says_nothing_is_fused(self, part, narrowing):
        teachers = [named("llama", seed) for seed in (0, 1)]
        for _, model in teachers:
            with torch.no_grad():
                next(
                    p
                    for n, p in model.named_parameters()
                    if f"layers.0.self_attn.{part}" in n or f"layers.0.mlp.{part}" in n
                ).zero_()
        config = teachers[0][1].config
        student = fuse_models(teachers, 0.5, batches_of(config, 4, 24), FusionOptions(narrowing=narrowing)).model
        assert finite(student)
        assert max(float(p.abs().max()) for p in student.parameters()) < 100, "weights that a step would overwrite"
        assert kl(student, [model for _, model in teachers], config) < 0.02


class TestDepth:
    @pytest.mark.parametrize("with_data", [True, False])
    @pytest.mark.parametrize("depth", [pytest.param(1, marks=pytest.mark.slow), 2])
    def test_a_first_layer_that_holds_a_table_for_all(self, depth, with_data):
        name, model = named("t5", num_layers=4, num_decoder_layers=4)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "block.0.layer" in key and key.endswith(("o.weight", "wo.weight")):
                    p.mul_(1e-3)  # a layer that changes little is skipped
        batches = batches_of(model.config, 2, 8) if with_data else None
        result = fuse_models([(name, model)], 0.5, batches, depth=depth)
        assert finite(result.model) and result.model.config.num_layers == depth

    @pytest.mark.parametrize("with_data", [True, False])
    def test_a_first_layer_without_a_norm(self, with_data):
        teachers = [named("modernbert", 0, num_hidden_layers=4), named("modernbert", 1, num_hidden_layers=2)]
        batches = batches_of(teachers[0][1].config, 2, 8) if with_data else None
        assert finite(fuse_models(teachers, 0.5, batches).model)
        assert finite(fuse_models(teachers, 0.5, batches, depth=2).model)

    def test_layers_keep_their_kind_of_attention(self):
        name, model = named("gemma2", num_hidden_layers=4)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if ("layers.1." in key or "layers.2." in key) and "post_" in key:
                    p.fill_(-0.999)  # they write next to nothing: Gemma's norms scale by 1 + w
        result = fuse_models([(name, model)], 1.0, batches_of(model.config, 4, 16), depth=2)
        shown = [route[-1] for route in result.report["layers"][name].values()]
        assert shown == ["model.layers.0", "model.layers.3"]
        assert result.model.config.layer_types == [model.config.layer_types[0], model.config.layer_types[3]]


@pytest.mark.parametrize("family", ["gpt-neox", "bloom"])
def test_smaller_heads_of_fused_projections_stay_in_their_heads(family):
    wide = tiny_config(family, hidden_size=64)
    narrow = tiny_config(family, hidden_size=32)
    anatomy, student = inspect_config(wide), inspect_config(narrow)
    name = next(n for n, axes in anatomy.axes.items() if n.endswith("weight") and any(a.interleave > 1 for a in axes))
    space = next(space for space in anatomy.spaces.values() if space.heads > 1)
    heads, channels = space.heads, space.head_dim
    kept = torch.zeros(heads, channels, heads, channels // 2, dtype=torch.float64)
    for head in range(heads):
        kept[head, : channels // 2, head] = torch.eye(channels // 2)
    picked = kept.reshape(heads * channels, -1)
    maps = {map_key(space.name, role): Map(picked, picked) for role in Role if role is not Role.HEADS}
    weight = dict(tiny_model(wide).named_parameters())
    found = apply(maps, weight, anatomy, [name], student.axes)[name]
    rows = weight[name].reshape(heads, 3, channels, -1)[:, :, : channels // 2]
    assert torch.equal(found, rows.reshape(-1, rows.shape[-1]).double())


def test_short_samples_do_not_hide_that_layers_see_different_windows():
    config = tiny_config(
        "qwen2", num_hidden_layers=4, use_sliding_window=True, sliding_window=6, max_window_layers=2,
        max_position_embeddings=64,
    )  # fmt: skip
    model = random_model(config, 0)
    model.set_attn_implementation("sdpa")
    batches = [dummy_inputs(config, 8, length, seed=length) for length in (5, 24)]
    layers = inspect_config(config).stacks[0].layers
    runner = LayerwiseRunner(model, [layers], batches)
    runner.start_stack(0)
    for layer in layers:
        runner.advance(layer)
    for index, batch in enumerate(batches):
        assert torch.allclose(runner.logits(index), logits_of(model, batch), atol=1e-9)


def test_answers_of_two_kinds_are_refused():
    teachers = [random_model(config_of("bert"), seed) for seed in (0, 1)]
    teachers[1].config.problem_type = "multi_label_classification"
    with pytest.raises(UserError, match=r"differ in task: .*text-classification .*text-multi-label"):
        compressor.fuse(teachers, 0.5, batches_of(teachers[0].config))


def test_a_widening_in_half_precision_is_recovered_to_its_digits():
    narrow = tiny_model(config_of("vit"))
    wide = widen(narrow, 1).to(torch.bfloat16)
    student = compressor.fuse([wide], 0.5, batches_of(narrow.config, 4, 24)).model.double()
    inputs = batches_of(narrow.config, 1, 8, first_seed=5)[0]
    wanted = logits_of(narrow, inputs)
    assert float((logits_of(student, inputs) - wanted).norm() / wanted.norm()) < 0.1
    assert math.isfinite(kl(student, [narrow], narrow.config, dtype=torch.float64))


def test_a_share_of_the_tokens_is_of_the_real_ones():
    """Padding changes neither how many are drawn nor which."""
    config = config_of("bert")
    anatomy, source = inspect_config(config), prepare_teacher("bert", tiny_model(config), 1.0)
    batch = batches_of(config, 1, 6)[0]
    extra = torch.full((6, 5), config.pad_token_id)
    padded = {
        "input_ids": torch.cat([batch["input_ids"], extra], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros_like(extra)], 1),
    }
    found = [token_masks("random:0.25", [source], anatomy, [inputs]) for inputs in (batch, padded)]
    assert found[0] is not None and found[1] is not None
    ((plain,),), ((longer,),) = found
    assert torch.equal(longer[:, :12], plain) and not longer[:, 12:].any() and plain.sum(1).tolist() == [3] * 6


def test_teachers_with_other_numbers_of_experts_are_refused():
    teachers = [random_model(tiny_config("mixtral", num_local_experts=count), 0) for count in (4, 2)]
    with pytest.raises(UserError, match="number of experts"):
        compressor.fuse(teachers, 0.5, None)

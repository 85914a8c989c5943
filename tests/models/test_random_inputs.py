"""Random inputs of series, patches in lists, and sound beside text."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from benchmarks.zoo.tiny import class_of, tiny_configs
from compressor.anatomy import CERTIFICATE_TOLERANCE, inspect_config
from compressor.anatomy.certificate import random_model
from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.trials import needed_inputs
from compressor.models.inputs import dummy_inputs


def config_of(model_type, architecture, **fields):
    config = AutoConfig.for_model(model_type, **fields)
    config.architectures = [architecture]
    return config


_SERIES = {"prediction_length": 3, "context_length": 5, "lags_sequence": [1, 2], "num_time_features": 2, "d_model": 16,
           "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
           "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}  # fmt: skip


@pytest.mark.parametrize("kind", ["autoformer", "informer", "time_series_transformer"])
def test_a_decoder_of_a_series_reads_lagged_values_and_those_to_predict(kind):
    names = {"autoformer": "Autoformer", "informer": "Informer", "time_series_transformer": "TimeSeriesTransformer"}
    inputs = dummy_inputs(config_of(kind, f"{names[kind]}Model", **_SERIES), 2, 8)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "past_values": (2, 7), "past_time_features": (2, 7, 2), "past_observed_mask": (2, 7),
        "future_values": (2, 3), "future_time_features": (2, 3, 2),
    }  # fmt: skip


def test_a_trajectory_of_states_actions_and_returns_is_certified():
    config = config_of(
        "decision_transformer", "DecisionTransformerModel", hidden_size=16, n_layer=1, n_head=2, state_dim=3, act_dim=2
    )
    assert set(dummy_inputs(config, 2, 6)) == {"states", "actions", "rewards", "returns_to_go", "timesteps"}
    assert inspect_config(config).error <= CERTIFICATE_TOLERANCE


def test_a_dual_encoder_of_sound_and_text_reads_both():
    config = config_of("clap", "ClapModel")
    inputs = dummy_inputs(config, 2, 6)
    assert inputs["input_ids"].shape == (2, 6)
    assert inputs["input_features"].shape == (2, 1, config.audio_config.spec_size, config.audio_config.num_mel_bins)


def test_sound_among_tokens_comes_in_whole_windows_or_stacked_frames():
    windows = dummy_inputs(_tiny("qwen3_asr"), 2, 6)
    assert windows["input_features"].shape[-1] == 100 == windows["input_features_mask"].shape[-1]
    stacked = dummy_inputs(_tiny("fun_asr_nano"), 2, 6)
    assert stacked["input_features"].shape[-1] == 7 * 80


def test_sound_that_accompanies_every_token_is_as_long():
    config = _tiny("voxtral_realtime")
    inputs = dummy_inputs(config, 2, 6)
    assert inputs["input_features"].shape == (2, 128, 6 * config.audio_length_per_tok)


def test_sound_at_places_of_tokens_that_cannot_be_counted_is_left_out():
    assert "input_features" not in dummy_inputs(_tiny("qwen2_audio"), 2, 6)


def test_a_text_reads_a_list_of_images_with_what_each_token_sees():
    model = random_model(_tiny("idefics"))
    inputs = needed_inputs(model, model.config, 2, 6)
    assert inputs["pixel_values"].dim() == 5
    assert inputs["image_attention_mask"].shape == (2, 6, 1)


def _tiny(kind):
    return next(tiny_configs(kind, class_of(kind)))


def test_single_precision_that_a_model_asks_for_is_given_as_double():
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    config = config_of("switch_transformers", "SwitchTransformersForConditionalGeneration", **sizes, num_experts=2,
                       decoder_start_token_id=0)  # fmt: skip
    model = random_model(config)
    answers = all_outputs(model, dummy_inputs(model.config, 2, 6, dtype=torch.float64))
    assert answers["logits"].dtype == torch.float64

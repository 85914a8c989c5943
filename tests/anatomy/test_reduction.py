"""Small configs keep what holds between their fields."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from compressor.anatomy.reduction import reduced
from compressor.anatomy.resize import Growth, Skeleton, check_small, measure_growth
from compressor.models.configs.fields import read_field, with_fields
from compressor.models.meta import meta_model

_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}


def test_a_token_that_several_parts_name_is_one_token_in_a_small_vocabulary():
    config = AutoConfig.for_model("t5gemma2")
    config = with_fields(config, {"encoder.image_token_id": 5000, "image_token_index": 5000, "eoi_token_index": 4000})
    for part in ("encoder.text_config", "decoder"):
        config = with_fields(config, {f"{part}.{name}": value for name, value in _TEXT.items()})
    small = next(reduced(Skeleton(config, (), ())))
    image = read_field(small, "image_token_index")
    assert image < 160
    assert read_field(small, "encoder.image_token_id") == image != read_field(small, "eoi_token_index")


def test_a_width_that_stages_multiply_does_not_grow():
    config = AutoConfig.for_model("vibevoice_acoustic_tokenizer_encoder", num_filters=4, depths=[1] * 7)
    config.architectures = ["VibeVoiceAcousticTokenizerEncoderModel"]
    skeleton = measure_growth(config, 2)
    assert all(small.num_filters <= 4 for small in reduced(skeleton))
    check_small(next(reduced(skeleton)))


@pytest.mark.parametrize("field", ["channel_multiplier.1", "vocab_size", "qk_channels"])
def test_some_small_config_leaves_ratios_vocabularies_and_derived_sizes_as_they_are(field):
    config = AutoConfig.for_model("perceiver", channel_multiplier=[1, 4], vocab_size=5000)
    growths = tuple(
        Growth((name,), value, {("a", 0): 1.0})
        for name, value in (("d_latents", 1280), ("qk_channels", 512), (field, read_field(config, field) or 512))
    )
    kept = [read_field(small, field) for small in reduced(Skeleton(config, (), growths))]
    assert read_field(config, field) in kept[:-1]


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2", "bart"])
def test_models_without_weights_have_the_ties_of_real_ones(kind):
    heads = {"bert": "BertForMaskedLM", "t5": "T5ForConditionalGeneration", "gpt2": "GPT2LMHeadModel"}
    config = AutoConfig.for_model(kind, vocab_size=64)
    config.architectures = [heads.get(kind, "BartForConditionalGeneration")]
    model = meta_model(config)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

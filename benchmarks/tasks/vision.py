"""The tasks of images whose answers are no single class: data, teachers' configs."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SegformerConfig,
    SegformerImageProcessorPil,
    YolosConfig,
    YolosImageProcessorPil,
)

from benchmarks.tasks import captions, shapes
from benchmarks.tasks.captions import save_captions
from benchmarks.tasks.scenes import PIXEL_CLASSES, SIDE, save_masks
from benchmarks.tasks.settings import LARGE, TaskSetting, class_names
from benchmarks.tasks.shapes import SHAPES, save_shapes


def _segformer() -> SegformerConfig:
    return SegformerConfig(
        architectures=["SegformerForSemanticSegmentation"], num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1],
        hidden_sizes=[48, 96], patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[4, 4],
        decoder_hidden_size=96, drop_path_rate=0.0, initializer_range=LARGE, classifier_dropout_prob=0.0,
        **class_names(PIXEL_CLASSES),
    )  # fmt: skip


#: Tokens of captions.
_CAPTION_TOKENS = ("<pad>", "<start>", *captions.WORDS, "<end>")


def _clip() -> CLIPConfig:
    sizes: dict[str, Any] = {"num_attention_heads": 4, "initializer_factor": 3.0}
    return CLIPConfig(
        architectures=["CLIPModel"], projection_dim=32, initializer_factor=3.0,
        text_config={"vocab_size": len(_CAPTION_TOKENS), "max_position_embeddings": 16, "hidden_size": 32,
                     "intermediate_size": 128, "pad_token_id": 0, "bos_token_id": 1,
                     "eos_token_id": len(_CAPTION_TOKENS) - 1, "num_hidden_layers": 2, **sizes},
        vision_config={"image_size": captions.SIDE, "patch_size": 4, "hidden_size": 64, "intermediate_size": 256,
                       "num_hidden_layers": 4, **sizes},
    )  # fmt: skip


def _clip_processor() -> CLIPProcessor:
    vocabulary = {token: index for index, token in enumerate(_CAPTION_TOKENS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[(token, vocabulary[token]) for token in ("<start>", "<end>")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<start>", eos_token="<end>"
    )
    images = CLIPImageProcessorPil(
        size={"height": captions.SIDE, "width": captions.SIDE}, do_center_crop=False, do_convert_rgb=True
    )
    return CLIPProcessor(images, tokenizer)


def _yolos() -> YolosConfig:
    return YolosConfig(
        architectures=["YolosForObjectDetection"], image_size=[shapes.SIDE, shapes.SIDE], patch_size=8,
        num_detection_tokens=6, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        use_mid_position_embeddings=False, initializer_range=LARGE, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **class_names(SHAPES),
    )  # fmt: skip


def _yolos_processor() -> YolosImageProcessorPil:
    return YolosImageProcessorPil(size={"height": shapes.SIDE, "width": shapes.SIDE}, do_pad=False)


VISION_SETTINGS: dict[str, TaskSetting] = {
    "semantic-segmentation": TaskSetting(
        save_masks,
        _segformer,
        lambda: SegformerImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, do_convert_rgb=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        samples={"train": 2500, "test": 500},
        steps=450,
        learning_rate=3e-3,
    ),
    "object-detection": TaskSetting(
        save_shapes, _yolos, _yolos_processor, samples={"train": 4000, "test": 500}, steps=1000, learning_rate=2e-3
    ),
    "image-text": TaskSetting(
        save_captions, _clip, _clip_processor, samples={"train": 10000, "test": 600}, steps=1500, learning_rate=2e-3
    ),
}

"""The tasks of images whose answers are no single class: data, teachers' configs."""

from __future__ import annotations

from transformers import SegformerConfig, SegformerImageProcessorPil

from benchmarks.tasks.scenes import PIXEL_CLASSES, SIDE, save_masks
from benchmarks.tasks.settings import TaskSetting, class_names


def _segformer() -> SegformerConfig:
    return SegformerConfig(
        architectures=["SegformerForSemanticSegmentation"], num_encoder_blocks=2, depths=[2, 2], sr_ratios=[2, 1],
        hidden_sizes=[32, 64], patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[2, 4], mlp_ratios=[4, 4],
        decoder_hidden_size=64, drop_path_rate=0.0, classifier_dropout_prob=0.0, **class_names(PIXEL_CLASSES),
    )  # fmt: skip


VISION_SETTINGS: dict[str, TaskSetting] = {
    "semantic-segmentation": TaskSetting(
        save_masks,
        _segformer,
        lambda: SegformerImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, do_convert_rgb=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        samples={"train": 3000, "test": 500},
        steps=1000,
        learning_rate=2e-3,
    )
}

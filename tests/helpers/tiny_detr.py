"""A tiny DETR whose backbone is a ResNet of transformers."""

from __future__ import annotations

SIDE = 32


def detr_config(names=("red", "green", "blue"), **fields):
    """A config of images of `SIDE` pixels."""
    from transformers import DetrConfig, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    sizes = {f"{part}_{name}": value for part in ("encoder", "decoder")
             for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}  # fmt: skip
    return DetrConfig(
        architectures=["DetrForObjectDetection"], backbone_config=backbone, use_timm_backbone=False, backbone=None,
        use_pretrained_backbone=False, d_model=32, num_queries=6, dropout=0.0, id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)}, **sizes, **fields,
    )  # fmt: skip


def detr_processor():
    """Images of one size, without padding."""
    from transformers import DetrImageProcessorPil

    return DetrImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_pad=False)

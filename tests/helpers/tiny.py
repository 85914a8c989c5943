"""Makers of tiny models and data.  Libraries are imported inside, after conftest has set their environment."""

from __future__ import annotations

from pathlib import Path

CLASSES = ("cat", "dog", "ant", "bee")


def save_vit(folder, *, seed=0, hidden=32, heads=4, layers=2, classes=CLASSES, mean=(0.5, 0.5, 0.5), **options):
    """A randomly initialised ViT on 16×16 images in 4 patches, saved with its image processor."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil
    from transformers.utils import logging

    config = ViTConfig(
        **{
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "intermediate_size": 2 * hidden,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "id2label": dict(enumerate(classes)),
            "label2id": {label: index for index, label in enumerate(classes)},
        }
        | options
    )
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    ViTForImageClassification(config).eval().save_pretrained(folder)
    size = {"height": config.image_size, "width": config.image_size}
    ViTImageProcessorPil(do_resize=True, size=size, image_mean=list(mean), image_std=[0.5] * len(mean)).save_pretrained(
        folder
    )
    return Path(folder)


def quick_builtins():
    """The built-in teachers, smaller and trained for three steps."""
    from dataclasses import replace

    from compressor.models.builtin import BUILTIN

    small = {"hidden_size": 32, "layers": 2, "intermediate_size": 64, "patch_size": 4}
    return {name: replace(training, steps=3, **small) for name, training in BUILTIN.items()}


def save_bert(folder, *, seed=0, words=("good", "bad", "film", "plot", "the"), hidden=16):
    """A randomly initialised BERT classifier with a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
    from transformers.utils import logging

    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", model_max_length=8
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=32,
        max_position_embeddings=16,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def save_images(root, per_class=5, classes=CLASSES, seed=0, size=16, mode="RGB"):
    """PNG files in one folder per class, each class with a brightness of its own."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    for level, name in enumerate(classes):
        folder = Path(root, name)
        folder.mkdir(parents=True)
        for index in range(per_class):
            pixels = random.integers(0, 60, (size, size, 3), dtype=np.uint8) + np.uint8(60 * level % 196)
            Image.fromarray(pixels).convert(mode).save(folder / f"{index}.png")
    return Path(root)

"""Teachers and calibration samples by size; weights are random, but for the CIFAR-10 pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertConfig, LlamaConfig, PretrainedConfig, PreTrainedModel, ViTConfig

from compressor.data.batches import Samples
from compressor.data.sources import open_split
from compressor.models.configs.reading import model_class
from compressor.models.load import load_teacher
from compressor.recipe import DataOptions

#: Samples of one batch.
BATCH = 16


@dataclass(frozen=True)
class Size:
    """Two random teachers of a config.

    Attributes:
        samples: calibration samples.
        tokens: per text; 0 for images.
        dtype: of the teachers.
    """

    config: Callable[[], PretrainedConfig]
    samples: int
    tokens: int = 0
    dtype: torch.dtype = torch.float32

    def teachers(self) -> list[PreTrainedModel]:
        """Two models of different seeds."""
        models = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            config = self.config()
            models.append(model_class(config)(config).eval().to(self.dtype))
        return models

    def batches(self) -> list[dict[str, Tensor]]:
        """Random images or tokens."""
        config, draw = self.config(), torch.Generator().manual_seed(2)
        if self.tokens:
            inputs = torch.randint(5, config.vocab_size, (self.samples, self.tokens), generator=draw)
            return [{"input_ids": part} for part in inputs.split(BATCH)]
        pixels = torch.randn(self.samples, 3, config.image_size, config.image_size, generator=draw)
        return [{"pixel_values": part} for part in pixels.split(BATCH)]


def vit(hidden: int, layers: int, patch: int = 16, image: int = 224) -> Callable[[], PretrainedConfig]:
    """A ViT with heads of 64."""
    return lambda: ViTConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden, patch_size=patch, image_size=image, id2label=dict(enumerate("0123456789")),
        architectures=["ViTForImageClassification"],
    )  # fmt: skip


def llama(hidden: int, layers: int, heads: int, inner: int, vocabulary: int = 32000) -> Callable[[], PretrainedConfig]:
    """A Llama with a key–value head per four heads."""
    return lambda: LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 4),
        intermediate_size=inner, vocab_size=vocabulary, architectures=["LlamaForCausalLM"],
    )  # fmt: skip


def bert_base() -> PretrainedConfig:
    """BERT-base with a classifier."""
    return BertConfig(architectures=["BertForSequenceClassification"])


SIZES: dict[str, Size] = {
    "vit-tiny": Size(vit(64, 2, patch=8, image=32), 32),
    "vit-384x4": Size(vit(384, 4), 64),
    "vit-s": Size(vit(384, 12), 64),
    "vit-b-16": Size(vit(768, 12), 64),
    "vit-b-32": Size(vit(768, 12, patch=32), 64),
    "bert-base": Size(bert_base, 64, 128),
    "llama-0.1b": Size(llama(768, 10, 12, 2048), 32, 256, torch.bfloat16),
    "llama-0.3b": Size(llama(1024, 20, 16, 2816), 32, 256, torch.bfloat16),
    "llama-1.1b": Size(llama(2048, 22, 32, 5632), 32, 256, torch.bfloat16),
}


def trained_pair(names: Sequence[str], data: str, count: int) -> tuple[list[PreTrainedModel], list[dict[str, Tensor]]]:
    """Trained image teachers and calibration images."""
    teachers = [load_teacher(name) for name in names]
    first = teachers[0]
    split = open_split(DataOptions(source=data), "train", id2label=first.spec.labels, task=first.spec.task)
    samples = Samples(split.take(count, seed=0), first.processor, first.spec, labels=False, cache_bytes=0)
    pixels = torch.stack([sample["pixel_values"] for sample in samples.__getitems__(range(len(samples)))])
    return [teacher.model for teacher in teachers], [{"pixel_values": part} for part in pixels.split(128)]

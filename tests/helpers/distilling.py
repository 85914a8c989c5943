"""Tiny models, samples and options of finetunes, which tests of several rooms share."""

import torch
from transformers import ViTConfig, ViTForImageClassification

from compressor.recipe import FinetuneOptions

CLASSES = 3


def vit(seed=0, width=16, dropout=0.0):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * width, image_size=8,
        patch_size=4, num_labels=CLASSES, hidden_dropout_prob=dropout, initializer_range=0.2,
        architectures=["ViTForImageClassification"],
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def samples(count=24, labels=False):
    generator = torch.Generator().manual_seed(3)
    made = [{"pixel_values": torch.randn(3, 8, 8, generator=generator)} for _ in range(count)]
    for index, sample in enumerate(made if labels else []):
        sample["labels"] = torch.tensor(index % CLASSES)
    return made


def options(**fields):
    # 24 samples in batches of 8: a pass over them is 3 steps.
    return FinetuneOptions(**{"steps": 8, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 3, **fields})


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Interrupt:
    """Ctrl-C after a step."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step, total, loss):
        if step == self.step:
            raise KeyboardInterrupt


class Watched(list):
    """Samples that remember which of them were read."""

    def __init__(self, values):
        super().__init__(values)
        self.seen = []

    def __getitem__(self, index):
        self.seen.append(index)
        return super().__getitem__(index)


def searching(**fields):
    # Two rates that learn, and one at which nothing can be learnt between them.
    values = {"steps": 4, "checkpoint_every": 2, "learning_rate": "search", "learning_rates": (1e-4, 10.0, 1e-2)}
    return options(**{"validation": 0.25, **values, **fields})

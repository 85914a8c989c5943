"""The teachers that the tables are made with."""

from __future__ import annotations

from benchmarks.common.setting import Setting

#: Pairs of small ViTs of different seeds, each in turn the anchor of one.
PAIRS = (("vit-0", "vit-1"), ("vit-2", "vit-3"), ("vit-4", "vit-0"))
SHARED = ("cifar10-vit-a", "cifar10-vit-b")

SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("small ViTs", PAIRS, "cifar10", samples=256, test=5000),
        Setting("ViTs", (SHARED,), "cifar10", samples=256, test=5000),
        Setting("BERTs", (("bert-a", "bert-b"),), "sst2", samples=256, batch=32),
        Setting("Llamas", (("llama-a", "llama-b"),), "shakespeare", samples=256, batch=16),
        Setting("GPT-2s", (("gpt2-a", "gpt2-b"),), "shakespeare", samples=256, batch=16),
        Setting("T5s", (("t5-a", "t5-b"),), "seq2seq", samples=256, batch=32),
        Setting(
            "five small ViTs",
            tuple(tuple(f"vit-{(first + k) % 5}" for k in range(5)) for first in range(3)),
            "cifar10",
            samples=256,
            test=5000,
        ),
        Setting("192 to 128 wide", (SHARED,), "cifar10", anchors=("vit-128",), samples=256, test=5000),
        Setting("192 to 96 wide", (SHARED,), "cifar10", anchors=("vit-0", "vit-1", "vit-2"), samples=256, test=5000),
        Setting("96 to 192 wide", PAIRS, "cifar10", anchors=("cifar10-vit-a",), samples=256, test=5000),
        Setting(
            "4 to 6 layers",
            tuple((f"vit-{k}", "vit-shallow") for k in range(3)),
            "cifar10",
            anchors=("vit-0", "vit-1", "vit-2"),
            samples=256,
            test=5000,
        ),
        Setting(
            "6 to 4 layers",
            tuple(("vit-shallow", f"vit-{k}") for k in range(3)),
            "cifar10",
            anchors=("vit-shallow",),
            samples=256,
            test=5000,
        ),
    )
}

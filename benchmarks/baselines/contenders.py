"""The ways to make a student: each takes teachers and data of an arena and gives a model of the event's shape."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from benchmarks.baselines.pruning import PRUNABLE, prune
from benchmarks.common.setting import Arena, Named
from compressor.fusion import FusionResult, fuse_models
from compressor.models.configs.reading import model_class
from compressor.pipeline.teachers import plan_target
from compressor.recipe import AlignmentOptions, FusionOptions


class Contender(Protocol):
    """A way to make a student."""

    def make(self, arena: Arena, width: float, seed: int) -> PreTrainedModel:
        """The student, not finetuned."""
        ...


@dataclass(frozen=True)
class Random:
    """Weights as the family initialises them."""

    def make(self, arena: Arena, width: float, seed: int) -> PreTrainedModel:
        (target, *_), _ = plan_target([model.config for _, model in arena.teachers(seed)], width)
        torch.manual_seed(seed)
        return model_class(target.config)(copy.deepcopy(target.config)).eval()


@dataclass(frozen=True)
class Fused:
    """A fusion of all teachers, or a compression of one.

    Attributes:
        options: of the fusion.
        teacher: the only one that takes part; None for all.
        anchored: whether the narrow anchor gives shape and coordinates, and takes part.
    """

    options: dict[str, Any] = field(default_factory=dict)
    teacher: int | None = None
    anchored: bool = False

    def make(self, arena: Arena, width: float, seed: int) -> PreTrainedModel:
        return self.fuse(arena, width, seed).model

    def fuse(self, arena: Arena, width: float, seed: int) -> FusionResult:
        """The student with the maps between its streams and the teachers'."""
        anchor = arena.anchor(seed) if self.anchored else None
        # All contenders are measured against the mean of probabilities.
        options = FusionOptions(**{"weights": "equal", "mixture": "probabilities", **self.options})
        if anchor and getattr(anchor[1].config, "rope_parameters", None):
            # Channels have a place in rotary positions, so they are not coupled across heads.
            options = options.model_copy(update={"alignment": options.alignment.model_copy(update={"heads": "within"})})
        taking = [*self._teachers(arena, seed), *([anchor] if anchor else [])]
        return fuse_models(taking, width, arena.calibration(seed), options, seed=seed, anchor=anchor)

    def _teachers(self, arena: Arena, seed: int) -> Sequence[Named]:
        found = arena.teachers(seed)
        return found if self.teacher is None else [found[self.teacher]]


@dataclass(frozen=True)
class Anchor:
    """A narrow model that was trained on labels; its training is not counted here, the page says what it took."""

    def make(self, arena: Arena, width: float, seed: int) -> PreTrainedModel:
        return copy.deepcopy(arena.anchor(seed)[1])


@dataclass(frozen=True)
class Pruned:
    """Torch-Pruning of the first teacher, by Taylor importance on labelled calibration samples.

    Attributes:
        whole_heads: heads are pruned as wholes; their channels otherwise.
    """

    whole_heads: bool

    def make(self, arena: Arena, width: float, seed: int) -> PreTrainedModel:
        return prune(arena.teachers(seed)[0][1], width, arena.labelled(seed), whole_heads=self.whole_heads)


NO_REFIT = {"refit": False}
PAPER = AlignmentOptions(preparation="standardised", heads="across", normalise="max", solver="sinkhorn", epsilon=0.01)
FEWER, SMALLER = {"narrowing": "fewer-heads"}, {"narrowing": "smaller-heads"}
FOLDED = {"residual": "barycentre", "inner": "transport"}
RANDOM, OURS = "random", "ours: automatic"
PRUNED, CHANNELS = "Torch-Pruning, Taylor, whole heads", "Torch-Pruning, Taylor, channels of heads"
#: The students of one teacher each, as many as an event has teachers.
SINGLE = tuple(f"teacher {k} alone, our refit" for k in (1, 2, 3, 4))
#: Name: who.  Contenders that need an anchor take part where the setting has one of the event's width.
CONTENDERS: dict[str, Contender] = {
    RANDOM: Random(),
    "slices, evenly spaced": Fused({"residual": "slice", "inner": "slice", **NO_REFIT, **FEWER}, 0),
    "slices, evenly spaced, smaller heads": Fused({"residual": "slice", "inner": "slice", **NO_REFIT, **SMALLER}, 0),
    "slices, by importance": Fused({"residual": "importance", "inner": "importance", **NO_REFIT, **FEWER}, 0),
    PRUNED: Pruned(whole_heads=True),
    CHANNELS: Pruned(whole_heads=False),
    "folding (k-means)": Fused({**FOLDED, **NO_REFIT, **FEWER}, 0),
    "folding (k-means), refit": Fused({**FOLDED, **FEWER}, 0),
    "neuron transplantation": Fused({"residual": "importance", "inner": "importance", **NO_REFIT, **FEWER}),
    **{name: Fused({}, k) for k, name in enumerate(SINGLE)},
    "trained anchor": Anchor(),
    "OT fusion into the anchor, as the paper": Fused(
        {"residual": "averaging", "alignment": PAPER, **NO_REFIT}, anchored=True
    ),
    "ours: OT barycentre": Fused({"residual": "barycentre", "inner": "transport"}),
    "ours: principal components": Fused({"residual": "principal"}),
    OURS: Fused({}),
}


def is_anchored(name: str) -> bool:
    """Whether a contender starts from the trained narrow model."""
    one = CONTENDERS[name]
    return isinstance(one, Anchor) or (isinstance(one, Fused) and one.anchored)


def taking_part(arena: Arena, width: float) -> dict[str, Contender]:
    """Those that can: an anchor must have the event's width, a teacher be there, and pruning know the family."""
    found = dict(CONTENDERS)
    narrow = False
    configs = [model.config for _, model in arena.teachers(0)]
    if arena.setting.anchors:
        (target, *_), _ = plan_target(configs, width)
        narrow = arena.anchor(0)[1].config.hidden_size == target.config.hidden_size
    for name, one in CONTENDERS.items():
        absent = isinstance(one, Fused) and one.teacher is not None and one.teacher >= len(configs)
        unknown = isinstance(one, Pruned) and configs[0].model_type not in PRUNABLE
        if absent or unknown or (is_anchored(name) and not narrow):
            del found[name]
    return found

"""Who makes students of unlike teachers; what the contest of like ones knows is taken from there."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from transformers import PreTrainedModel

from benchmarks.baselines.contenders import CONTENDERS as ALIKE
from benchmarks.baselines.contenders import OURS, RANDOM, SINGLE, Contender, Fused, Random
from benchmarks.common.setting import Arena
from benchmarks.experts.merging import Merge, plain_average, task_arithmetic, ties
from compressor.fusion import fuse_models

#: The mixture is chosen as it is for a user.
CHOSEN = {"weights": "auto", "mixture": "auto"}
TRAINED, PAPER = "trained anchor", "OT fusion into the anchor, as the paper"


@dataclass(frozen=True)
class Merged:
    """Fine-tunes of one ancestor merged at full width, the result compressed by our fusion of one teacher."""

    merge: Merge

    def make(self, arena: Arena, width: float, seed: int) -> PreTrainedModel:
        if arena.setting.ancestor is None:
            raise ValueError(f"the teachers of {arena.setting.name} have no common ancestor")
        _, ancestor = arena.model(arena.setting.ancestor)
        experts = [model for _, model in arena.teachers(seed)]
        merged = copy.deepcopy(ancestor)
        merged.load_state_dict(self.merge(ancestor.state_dict(), [expert.state_dict() for expert in experts]))
        return fuse_models([("merged", merged)], width, arena.calibration(seed), seed=seed).model


MERGED = {
    "plain average, our refit": Merged(plain_average),
    "task arithmetic, our refit": Merged(task_arithmetic),
    "TIES, our refit": Merged(ties),
}
CONTENDERS: dict[str, Contender] = {
    OURS: Fused(CHOSEN),
    **{name: Fused({}, k) for k, name in enumerate(SINGLE)},
    **MERGED,
    TRAINED: ALIKE[TRAINED],
    PAPER: ALIKE[PAPER],
    RANDOM: Random(),
}


def taking_part(arena: Arena) -> list[str]:
    """Those that can: a teacher must be there, fine-tunes have an ancestor, and the anchors be trained."""
    setting = arena.setting
    absent = {*SINGLE[len(setting.teachers[0]) :]}
    if setting.ancestor is None:
        absent |= MERGED.keys()
    if not setting.anchors or not all(map(arena.places.has_teacher, setting.anchors)):
        absent |= {TRAINED, PAPER}
    return [name for name in CONTENDERS if name not in absent]

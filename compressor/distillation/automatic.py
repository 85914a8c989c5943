"""What a finetune does about samples that come again and again."""

from __future__ import annotations

from compressor.distillation.objective import FeatureTargets
from compressor.recipe import FinetuneOptions, LossOptions

#: Passes over the samples from which on a student learns the teachers' answers to these samples by heart.
MOST_PASSES = 4
#: Weight of the loss `hidden` then: every token's stream says more than one answer.
HIDDEN_WEIGHT = 10.0


def automatic_losses(options: FinetuneOptions, samples: int, targets: FeatureTargets) -> dict[str, LossOptions]:
    """The losses in addition that "auto" stands for: `hidden` where few samples are repeated, else none.

    Args:
        samples: that are trained on.
        targets: without layer maps, or with cached logits alone, streams cannot be compared.
    """
    if options.losses != "auto":
        return options.losses
    repeated = options.steps * options.batch_size > MOST_PASSES * samples
    if not (repeated and options.distil_weight and targets.layer_maps) or options.cache_logits:
        return {}
    return {"hidden": LossOptions(weight=HIDDEN_WEIGHT, decay=None)}

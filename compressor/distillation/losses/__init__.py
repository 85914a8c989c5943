"""What a student is trained for: losses by name, one file each, weighed against each other by the recipe."""

from compressor.distillation.losses.base import LOSSES, CapturedOutputs, Loss, LossContext, LossInputs
from compressor.distillation.losses.hidden_loss import hidden_loss
from compressor.distillation.losses.label_loss import label_loss
from compressor.distillation.losses.logit_loss import ensemble_kl, ensemble_log_probs
from compressor.distillation.losses.relation_loss import relation_log_probs, relation_loss

__all__ = [
    "LOSSES",
    "CapturedOutputs",
    "Loss",
    "LossContext",
    "LossInputs",
    "ensemble_kl",
    "ensemble_log_probs",
    "hidden_loss",
    "label_loss",
    "relation_log_probs",
    "relation_loss",
]  # fmt: skip

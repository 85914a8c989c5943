"""Losses by name; weights are in the recipe."""

from compressor.distillation.losses.hidden_loss import hidden_loss
from compressor.distillation.losses.label_loss import label_loss
from compressor.distillation.losses.logit_loss import LogitsLoss
from compressor.distillation.losses.loss import LOSSES, CapturedOutputs, Loss, LossContext, LossInputs
from compressor.distillation.losses.relation_loss import relation_log_probs, relation_loss

__all__ = [
    "LOSSES",
    "CapturedOutputs",
    "LogitsLoss",
    "Loss",
    "LossContext",
    "LossInputs",
    "hidden_loss",
    "label_loss",
    "relation_log_probs",
    "relation_loss",
]  # fmt: skip

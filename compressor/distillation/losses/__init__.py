"""What a student is trained for: losses by name, one file each, weighed against each other by the recipe."""

from compressor.distillation.losses.base import LOSSES, Loss, Seen, Setting, Watched
from compressor.distillation.losses.hidden import hidden_loss
from compressor.distillation.losses.labels import label_loss
from compressor.distillation.losses.logits import ensemble_kl, ensemble_log_probs
from compressor.distillation.losses.relations import relation_log_probs, relation_loss

__all__ = [
    "LOSSES", "Loss", "Seen", "Setting", "Watched", "ensemble_kl", "ensemble_log_probs",
    "hidden_loss", "label_loss", "relation_log_probs", "relation_loss",
]  # fmt: skip

"""The loss of a finetune, the same for training and for judging: the ensemble's opinion, labels, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from compressor.data.collate import collate
from compressor.distillation.checks import Samples
from compressor.distillation.losses import ensemble_kl, label_loss
from compressor.errors import UserError
from compressor.models.tasks import pad_id, pass_options, task_of_model
from compressor.recipe import FinetuneOptions


@dataclass(frozen=True)
class Term:
    """One part of the loss of a batch.

    Attributes:
        weight: by which it enters the loss.
        mean: over the positions that it looks at, in nats, a scalar; 0 if there are none.
        positions: how many these are.
    """

    weight: float
    mean: Tensor
    positions: int


class Objective:
    """distil_weight · temperature² · KL(ensemble ‖ student) + label_weight · cross-entropy, in nats.

    Args:
        student: whose task says which positions count.
        ensemble: teachers with their weights; they see each batch once, without gradients.  Not looked at if
            `options.distil_weight` is 0.
        options: weights and temperature.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        ensemble: Sequence[tuple[PreTrainedModel, float]],
        options: FinetuneOptions,
    ) -> None:
        distils = options.distil_weight > 0
        self.teachers = [teacher for teacher, _ in ensemble] if distils else []
        self.weights = [weight for _, weight in ensemble] if distils else []
        self.options = options
        self.collate = partial(collate, pad=pad_id(student.config))
        self._task = task_of_model(student)
        self._pass_options = pass_options(student)

    def terms(self, model: torch.nn.Module, batch: Mapping[str, Tensor]) -> tuple[list[Term], Any]:
        """The parts of the loss of a batch, and the model's outputs.

        Args:
            model: the student, in the mode that it is wanted in.
            batch: model inputs [B, ...], and "labels" where they are asked for.
        """
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            found = [teacher(**inputs, **self._pass_options).logits for teacher in self.teachers]
            targets = [self._task.counted(logits, inputs) for logits in found]
        outputs = model(**inputs, **self._pass_options)
        terms = []
        if targets:
            counted = self._task.counted(outputs.logits, inputs)
            mean = ensemble_kl(counted, targets, self.weights, self.options.temperature)
            terms.append(Term(self.options.distil_weight, mean, len(counted)))
        if self.options.label_weight > 0:
            answers, labels = self._task.answered(outputs.logits, batch["labels"])
            terms.append(Term(self.options.label_weight, label_loss(answers, labels), len(labels)))
        return terms, outputs

    def loss(self, model: torch.nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Any]:
        """The loss of a batch, a scalar, and the model's outputs; arguments as of `terms`."""
        terms, outputs = self.terms(model, batch)
        return torch.stack([term.weight * term.mean for term in terms]).sum(), outputs

    def judge(self, model: PreTrainedModel, samples: Samples) -> float:
        """The loss over all samples in nats, in eval mode: each term is the mean over the positions of all batches.

        Args:
            model: the student; left in eval mode.
            samples: read in order, in batches as large as those of the training.

        Raises:
            UserError: labels are all there is to learn from, and none is known.
        """
        model.eval()
        rows = []
        batches: DataLoader[Any] = DataLoader(
            samples,  # type: ignore[arg-type]
            self.options.batch_size,
            collate_fn=self.collate,
        )
        with torch.no_grad():
            for batch in batches:
                terms, _ = self.terms(model, {name: value.to(model.device) for name, value in batch.items()})
                rows.append([(term.weight * term.mean.item(), term.positions) for term in terms])
        counts = [sum(positions for _, positions in column) for column in zip(*rows, strict=True)]
        if not any(counts):
            raise UserError(f"none of the {len(samples)} samples to judge by has a known label: name data with more")
        sums = [sum(mean * positions for mean, positions in column) for column in zip(*rows, strict=True)]
        return sum(total / max(count, 1) for total, count in zip(sums, counts, strict=True))

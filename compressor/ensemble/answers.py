"""What a model's outputs mean, by `Task.answers`: how they are mixed, compared and judged.

Rows are outputs in one form each, [..., C]: log-probabilities of classes, log-odds of labels, values, or unit vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.anatomy.hooks import logits_of
from compressor.ensemble.objects import BoxAnswers
from compressor.ensemble.pairs import PairAnswers
from compressor.ensemble.probabilities import (
    check_ensemble_weights,
    ensemble_kl,
    kl_rows,
    mix_predictions,
    side_by_side,
    sums_per_sample,
)
from compressor.errors import UnsupportedError
from compressor.models.inputs import without_labels
from compressor.models.tasks.table import task_of_model
from compressor.models.tasks.task import IMPOSSIBLE, Task


class Answers(Protocol):
    """Outputs of one kind."""

    def rows(self, logits: Tensor) -> Tensor:
        """A model's logits as rows [..., C]."""
        ...

    def mix(self, rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
        """Rows of a weighted ensemble; `mixing` as in `ensemble.mix_predictions`.

        Raises:
            UserError: as `check_ensemble_weights`.
        """
        ...

    def divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """KL(reference ‖ model) in nats, float64 [...]; of boxes one an image [B]."""
        ...

    def agree(self, reference: Tensor, rows: Tensor) -> Tensor | None:
        """Whether both give the same answer, bool [...]; None where answers are no choices."""
        ...

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Mean negative log likelihood of a batch's known labels, in nats; 0 if none is known.

        Args:
            logits, labels: as in `Task.answered`.
        """
        ...

    def softened(self, rows: Tensor, temperature: float) -> Tensor:
        """Rows at a temperature, which values do not have."""
        ...


class ClassAnswers:
    """One class of several: a softmax."""

    def rows(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)

    def mix(self, rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
        return mix_predictions(rows, weights, mixing)

    def divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        return kl_rows(reference, rows)

    def agree(self, reference: Tensor, rows: Tensor) -> Tensor | None:
        return reference.argmax(-1) == rows.argmax(-1)

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        logits, labels = task.answered(logits, labels)
        return functional.cross_entropy(logits, labels) if len(labels) else logits.sum()

    def softened(self, rows: Tensor, temperature: float) -> Tensor:
        return (rows / temperature).log_softmax(-1)


class FrameAnswers(ClassAnswers):
    """A class or a blank in every frame, of which labels say the order alone (CTC).

    Graves et al. 2006, https://doi.org/10.1145/1143844.1143891.
    """

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """By symbol: logits [B, F, C], labels [B, S], padded below 0."""
        known, positions = task.known(labels), task.positions(inputs, logits.shape[1])
        if not known.any():
            return logits.sum() * 0
        logits, labels = logits[known], labels[known]
        frames = torch.full((len(labels),), logits.shape[1]) if positions is None else positions[known].sum(-1)
        rows = logits.float().log_softmax(-1).transpose(0, 1)
        # Samples with more symbols than frames have no likelihood.
        return functional.ctc_loss(
            rows, labels.clamp(min=0), frames, (labels >= 0).sum(-1), task.blank, zero_infinity=True
        )


class LabelAnswers:
    """Labels that hold or do not, independently: a sigmoid each.  An answer is right if all its labels are."""

    def rows(self, logits: Tensor) -> Tensor:
        return logits

    def mix(self, rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
        mixed = mix_predictions([two_classes(row) for row in rows], weights, mixing)
        return mixed[..., 1] - mixed[..., 0]

    def divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        return kl_rows(two_classes(reference.double()), two_classes(rows.double())).sum(-1)

    def agree(self, reference: Tensor, rows: Tensor) -> Tensor | None:
        return ((reference > 0) == (rows > 0)).all(-1)

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        logits, labels = task.answered(logits, labels)
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits)) if len(labels) else logits.sum()

    def softened(self, rows: Tensor, temperature: float) -> Tensor:
        return rows / temperature


class ValueAnswers:
    """Values with a normal error of variance one, whose KL is half the squared distance."""

    def rows(self, logits: Tensor) -> Tensor:
        return logits

    def mix(self, rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
        check_ensemble_weights(len(rows), weights)
        total = math.fsum(weights)
        return torch.stack([row * (weight / total) for row, weight in zip(rows, weights, strict=True) if weight]).sum(0)

    def divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        return (reference.double() - rows.double()).square().sum(-1) / 2

    def agree(self, reference: Tensor, rows: Tensor) -> Tensor | None:
        return None

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        logits, labels = task.answered(logits, labels)
        return functional.mse_loss(logits, labels.to(logits)) / 2 if len(labels) else logits.sum()

    def softened(self, rows: Tensor, temperature: float) -> Tensor:
        return rows


class EmbeddingAnswers:
    """Embeddings of texts, of which only the cosines within a batch count: widths and coordinates may differ."""

    def rows(self, logits: Tensor) -> Tensor:
        return functional.normalize(logits, dim=-1)

    def mix(self, rows: Sequence[Tensor], weights: Sequence[float], mixing: float = 1.0) -> Tensor:
        """Side by side: the cosines are the weighted mean of the models' cosines."""
        return side_by_side(rows, weights)

    def divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """KL between the choices of the text nearest to each text, among the others of the batch.

        Choices are softmaxes of cosines over `SIMILARITY_TEMPERATURE` (Fang et al. 2021,
        https://arxiv.org/abs/2101.04731).  A shift of all cosines, which they do not see, counts by half its square
        over `SIMILARITY_VARIANCE`.
        """
        if len(rows) < 2:
            return rows.double().sum(-1) * 0
        own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        expected, given = (each.double() @ each.double().T for each in (reference, rows))
        error = (expected - given).square().masked_fill(own, 0.0).sum(-1) / (len(rows) - 1)
        choices = [
            (each / SIMILARITY_TEMPERATURE).masked_fill(own, IMPOSSIBLE).log_softmax(-1) for each in (expected, given)
        ]
        return kl_rows(*choices) + error / (2 * SIMILARITY_VARIANCE)

    def agree(self, reference: Tensor, rows: Tensor) -> Tensor | None:
        return None

    def label_loss(self, task: Task, logits: Tensor, labels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        raise UnsupportedError("sentence embeddings are learned from the teachers' similarities: leave labels out")

    def softened(self, rows: Tensor, temperature: float) -> Tensor:
        return rows


#: Temperature of cosines, as in contrastive training of sentence embeddings, and variance of their errors.
SIMILARITY_TEMPERATURE, SIMILARITY_VARIANCE = 0.05, 0.1
#: By `Task.answers`.
ANSWERS: dict[str, Answers] = {
    "boxes": BoxAnswers(),
    "classes": ClassAnswers(),
    "embeddings": EmbeddingAnswers(),
    "frames": FrameAnswers(),
    "labels": LabelAnswers(),
    "pairs": PairAnswers(),
    "values": ValueAnswers(),
}


def distillation_loss(
    answers: Answers,
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    weights: Sequence[float],
    temperature: float = 1.0,
    mixing: float = 1.0,
) -> Tensor:
    """temperature² · KL(softened mixture of the teachers ‖ student) in nats, mean over samples [..., C].

    The square keeps gradients independent of the temperature (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
    """
    if isinstance(answers, ClassAnswers):
        # Vocabularies are large: no copies in float64.
        return ensemble_kl(student_logits, teacher_logits, weights, temperature, mixing)
    mixed = answers.mix([answers.rows(logits) for logits in teacher_logits], weights, mixing)
    student = answers.softened(answers.rows(student_logits), temperature)
    loss = answers.divergence(answers.softened(mixed, temperature), student).mean().to(student_logits)
    unsoftened = answers in (ANSWERS["values"], ANSWERS["embeddings"])
    return loss if unsoftened else temperature**2 * loss


def model_answers(model: nn.Module) -> Answers:
    """What a model's outputs mean."""
    return ANSWERS[task_of_model(model).answers]


@torch.no_grad()
def ensemble_predictions(
    models: Sequence[nn.Module], weights: Sequence[float], batch: Mapping[str, Tensor], mixing: float = 1.0
) -> Tensor:
    """The models' mixed answers as rows, [B, ..., C] float64."""
    answers, inputs = model_answers(models[0]), without_labels(batch)
    return answers.mix([answers.rows(logits_of(model, inputs).double()) for model in models], weights, mixing)


@torch.no_grad()
def mean_kl(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], targets: Sequence[Tensor]) -> float:
    """Mean KL(target || model) over unmasked tokens or samples, in nats; infinite for NaN.

    Args:
        targets: rows [B, ..., C].
    """
    answers, task, total, count = model_answers(model), task_of_model(model), 0.0, 0
    for batch, target in zip(batches, targets, strict=True):
        inputs = without_labels(batch)
        kl = answers.divergence(target, answers.rows(logits_of(model, inputs).double()))
        sums, counts = sums_per_sample(kl, task.positions(inputs, kl.shape[-1]))
        total, count = total + float(sums.sum()), count + int(counts.sum())
    mean = total / max(count, 1)
    return mean if mean == mean else float("inf")


def two_classes(log_odds: Tensor) -> Tensor:
    """Log-probabilities that labels do not hold, and that they hold, [..., C, 2]."""
    return torch.stack([functional.logsigmoid(-log_odds), functional.logsigmoid(log_odds)], -1)

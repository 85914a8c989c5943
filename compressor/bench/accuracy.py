"""How good a model is at its task, and how far it is from the ensemble it was made from; summed batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError, UserError
from compressor.models.tasks import TASKS, Task, logits_of_sample, pass_options, task_of_model

EvaluationBatch = Mapping[str, Tensor]

#: Logits that one forward pass may make; larger batches of language models are taken in parts.
MOST_EVALUATED_LOGITS = 1 << 24


@dataclass(frozen=True)
class Score:
    """What a model is measured by; None where there are no labels, no reference, or the task has no such figure.

    Attributes:
        accuracy: in [0, 1], of samples, or of tokens for taggers.
        kl: KL(reference ‖ model) in nats, the mean over samples, or over the positions that count (`Task.counted`).
        samples: how many there were.
        labelled: labels that were known, one a sample or one a token.
        f1: in [0, 1]: of two classes, that of class 1; of several, the mean over those that occur; of taggers, over all
            tokens together, of all classes but "O".
        perplexity: exp of the mean −log p of the labelled tokens; lower is better.
    """

    accuracy: float | None
    kl: float | None
    samples: int
    labelled: int
    f1: float | None = None
    perplexity: float | None = None

    @property
    def accuracy_error(self) -> float | None:
        """Standard error of the accuracy, from the number of labels."""
        if self.accuracy is None:
            return None
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.labelled)


class Tally:
    """Sums that make a `Score`; memory O(classes), whatever the number of samples.

    Args:
        task: what is measured, and where.
        outside: the class of tokens that belong to no entity, which the F1 of taggers leaves out.
    """

    def __init__(self, task: Task, outside: int | None = None) -> None:
        self.task, self.outside = task, outside
        self.samples = self.labelled = self.positions = 0
        self.divergence = self.surprise = 0.0
        self._hits = self._said = self._true = torch.zeros(0, dtype=torch.int64)

    def add(
        self, found: Tensor, inputs: EvaluationBatch, labels: Tensor | None = None, reference: Tensor | None = None
    ) -> None:
        """Add the answers to one batch.

        Args:
            found: the model's log-probabilities [B, C] or [B, T, C].
            inputs: the batch, whose mask says which positions count.
            labels: [B] or [B, T] as transformers takes them; below 0 they are unknown.
            reference: log-probabilities of the same shape to measure the KL from.
        """
        self.samples += len(found)
        if labels is not None:
            self._add_labels(*self.task.answered(found, labels.cpu()))
        if reference is not None:
            own, wanted = self.task.counted(found, inputs).double(), self.task.counted(reference, inputs).double()
            # A class of probability 0 adds nothing, whatever the model says; 0 · (−∞) would be NaN.
            terms = torch.where(wanted.isneginf(), 0.0, wanted.exp() * (wanted - own))
            self.divergence += terms.sum().item()
            self.positions += len(own)

    def _add_labels(self, answers: Tensor, labels: Tensor) -> None:
        self.labelled += len(labels)
        if "perplexity" in self.task.metrics:
            self.surprise -= answers.gather(-1, labels[:, None]).double().sum().item()
            return
        classes, said = answers.shape[-1], answers.argmax(-1)
        if not len(self._hits):
            self._hits = self._said = self._true = torch.zeros(classes, dtype=torch.int64)
        # A label of a class that the model has not is simply never said.
        self._hits = self._hits + labels[said == labels].bincount(minlength=classes)
        self._said = self._said + said.bincount(minlength=classes)
        self._true = self._true + labels[labels < classes].bincount(minlength=classes)

    def score(self) -> Score:
        """What the sums come to."""
        # Rounding may leave it a hair below zero.
        kl = max(self.divergence / self.positions, 0.0) if self.positions else None
        if not self.labelled:
            return Score(None, kl, self.samples, 0)
        if "perplexity" in self.task.metrics:
            # Beyond exp(700) there is no number.
            perplexity = math.exp(min(self.surprise / self.labelled, 700.0))
            return Score(None, kl, self.samples, self.labelled, perplexity=perplexity)
        accuracy = int(self._hits.sum()) / self.labelled
        f1 = self._f1() if "f1" in self.task.metrics else None
        return Score(accuracy, kl, self.samples, self.labelled, f1=f1)

    def _f1(self) -> float:
        hits, total = 2 * self._hits.double(), (self._said + self._true).double()
        if self.task.mask is not None:
            entities = torch.ones(len(hits), dtype=torch.bool)
            if self.outside is not None:
                entities[self.outside] = False
            hits, total = hits[entities].sum()[None], total[entities].sum()[None]
        elif len(hits) == 2:
            hits, total = hits[1:], total[1:]
        else:
            hits, total = hits[total > 0], total[total > 0]
        return (hits / total.clamp(min=1)).mean().item() if len(hits) else 0.0


@dataclass(frozen=True)
class ModelAnswers:
    """What several models answer to one batch.

    Attributes:
        inputs: the batch, without labels.
        labels: as in the batch; None if it has none.
        log_probs: of each model, float32 on the CPU, [B, C] or [B, T, C].
    """

    inputs: EvaluationBatch
    labels: Tensor | None
    log_probs: tuple[Tensor, ...]


def predict(models: Sequence[PreTrainedModel], batches: Iterable[EvaluationBatch]) -> Iterator[ModelAnswers]:
    """One forward pass per model and batch; each batch is made once for all models.

    Batches whose logits would be large are taken in parts, which changes no figure.

    Args:
        models: of one task, which run in eval mode and are left as they were.
        batches: model inputs, with or without "labels"; labels never reach a model.

    Raises:
        UserError: there are no samples, or only some batches have labels.
        UserError: a model's answers are not numbers.
        UnsupportedError: a model's logits are not what its task says.
    """
    training = [model.training for model in models]
    labelled: set[bool] = set()
    try:
        for model in models:
            model.eval()
        for batch in batches:
            labelled.add("labels" in batch)
            if len(labelled) > 1:
                raise UserError("only some of the evaluation batches have labels: give all of them labels, or none")
            for part in _parts(batch, models[0].config):
                inputs = {name: value for name, value in part.items() if name != "labels"}
                yield ModelAnswers(inputs, part.get("labels"), tuple(_forward(model, inputs) for model in models))
    finally:
        for model, was in zip(models, training, strict=True):
            model.train(was)
    if not labelled:
        raise UserError("nothing to evaluate: the data has no samples")


def measure_accuracy(models: Sequence[PreTrainedModel], batches: Iterable[EvaluationBatch]) -> list[Score]:
    """The score of each model on labelled batches; see `predict`."""
    tallies = [new_tally(model) for model in models]
    for found in predict(models, batches):
        for tally, one in zip(tallies, found.log_probs, strict=True):
            tally.add(one, found.inputs, found.labels)
    return [tally.score() for tally in tallies]


def new_tally(model: PreTrainedModel) -> Tally:
    """An empty tally for a model's task."""
    return Tally(task_of_model(model), outside_class(model.config))


def outside_class(config: PretrainedConfig) -> int | None:
    """The class "O" of a tagger, which stands for no entity; None if it has none."""
    names = {str(name).upper(): int(index) for index, name in (config.id2label or {}).items()}
    return names.get("O")


def score_model(
    log_probs: Tensor,
    labels: Tensor | None = None,
    reference_log_probs: Tensor | None = None,
    task: Task = TASKS["text-classification"],
) -> Score:
    """Compare one model's log-probabilities [N, C] with labels [N] and with a reference [N, C].

    Labels below 0 stand for unknown, as in the test splits of public benchmarks, and are left out.
    """
    tally = Tally(task)
    tally.add(log_probs, {}, labels, reference_log_probs)
    return tally.score()


def _parts(batch: EvaluationBatch, config: PretrainedConfig) -> Iterator[EvaluationBatch]:
    size = max(1, MOST_EVALUATED_LOGITS // logits_of_sample(config, batch))
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: value[start : start + size] for name, value in batch.items()}


@torch.inference_mode()
def _forward(model: PreTrainedModel, inputs: EvaluationBatch) -> Tensor:
    given = {name: value.to(model.device) for name, value in inputs.items()}
    task = task_of_model(model)
    output = model(**given, **pass_options(model))
    logits = getattr(output, "logits", None)
    if logits is None or logits.dim() != (2 if task.mask is None else 3):
        have = "no logits" if logits is None else f"logits {tuple(logits.shape)}"
        raise UnsupportedError(f"{type(model).__name__} cannot be measured as {task.name}: it gives {have}")
    answers = logits.float().log_softmax(-1).cpu()
    if answers.isnan().any():
        name = model.name_or_path or f"a {type(model).__name__} that was just made"
        raise UserError(f"{name} answers NaN: its weights are broken or far too large")
    return answers

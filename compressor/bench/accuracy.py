"""Metrics of models and exported files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.answers import ANSWERS, Answers
from compressor.bench.embedding_scores import EmbeddingTally
from compressor.bench.sample_mean import SampleMean, sample_owners
from compressor.bench.value_scores import LabelTally, ValueTally
from compressor.errors import UnsupportedError, UserError
from compressor.models.inputs import logits_of_sample, pass_options, without_labels
from compressor.models.sentence_pooling import model_answers_of
from compressor.models.tasks import TASKS, Task, task_of_model
from compressor.utils.strict_json import finite_or_none

EvaluationBatch = Mapping[str, Tensor]

#: Most logits of one forward pass; larger batches of language models are split.
MOST_EVALUATED_LOGITS = 1 << 24
#: Largest exponent whose exp is a float64.
_MAX_EXPONENT = 700.0


@dataclass(frozen=True)
class Score:
    """Metrics of one model; None if unavailable.

    Attributes:
        accuracy: in [0, 1], of samples or tokens.
        kl: KL(reference ‖ model) in nats, mean over positions that count.
        f1: of class 1 of two, else the mean over occurring classes; of taggers, over all but "O"; of labels, over all.
        perplexity: exp of the labels' mean −log p.
        spearman, rmse: rank correlation and root mean square error of values, or of labelled pairs' similarities.
        similarity, neighbours: rank correlation of all pairs' similarities with the reference's, and the share of
            nearest neighbours in common.
        kl_error and others: standard errors, over samples.
        majority: share of the commonest class among the labels of a classifier.
    """

    accuracy: float | None
    kl: float | None
    samples: int
    labelled: int
    f1: float | None = None
    perplexity: float | None = None
    kl_error: float | None = None
    perplexity_error: float | None = None
    f1_error: float | None = None
    spearman: float | None = None
    spearman_error: float | None = None
    rmse: float | None = None
    rmse_error: float | None = None
    majority: float | None = None
    similarity: float | None = None
    similarity_error: float | None = None
    neighbours: float | None = None
    neighbours_error: float | None = None

    @property
    def accuracy_error(self) -> float | None:
        """Standard error of the accuracy."""
        if self.accuracy is None:
            return None
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.labelled)


class Tally:
    """Sums over batches for a `Score`; F1 leaves out the class `outside`."""

    def __init__(self, task: Task, outside: int | None = None) -> None:
        self.task, self.outside = task, outside
        self.samples = self.labelled = 0
        self._kl, self._nll = SampleMean(), SampleMean()
        self._labels, self._values, self._embeddings = LabelTally(), ValueTally(), EmbeddingTally()
        self._correct = self._predicted = self._true = torch.zeros(0, dtype=torch.int64)

    def add(
        self, log_probs: Tensor, inputs: EvaluationBatch, labels: Tensor | None = None, reference: Tensor | None = None
    ) -> None:
        """Add one batch: rows of `compressor.answers` [B, C] or [B, T, C], and labels as of `Task.answered`."""
        self.samples += len(log_probs)
        if self.task.answers == "embeddings":
            self.labelled += self._embeddings.add(log_probs, reference, labels)
            labels = None
        if labels is not None:
            self._add_labels(log_probs, labels.cpu())
        if reference is not None:
            owners = self.task.counted(sample_owners(log_probs), inputs)[:, 0]
            counted = self.task.counted(log_probs, inputs)
            divergence = ANSWERS[self.task.answers].divergence(self.task.counted(reference, inputs), counted)
            self._kl.add(divergence, owners)

    def _add_labels(self, log_probs: Tensor, labels: Tensor) -> None:
        owners, _ = self.task.answered(sample_owners(log_probs), labels)
        log_probs, labels = self.task.answered(log_probs, labels)
        self.labelled += len(labels)
        if self.task.answers != "classes":
            (self._labels if self.task.answers == "labels" else self._values).add(log_probs, labels)
            return
        if "perplexity" in self.task.metrics:
            self._nll.add(-log_probs.gather(-1, labels[:, None])[:, 0], owners[:, 0])
            return
        classes, predicted = log_probs.shape[-1], log_probs.argmax(-1)
        if not len(self._correct):
            self._correct = self._predicted = self._true = torch.zeros(classes, dtype=torch.int64)
        # Labels of classes that the model lacks count as wrong.
        self._correct = self._correct + labels[predicted == labels].bincount(minlength=classes)
        self._predicted = self._predicted + predicted.bincount(minlength=classes)
        self._true = self._true + labels[labels < classes].bincount(minlength=classes)

    def score(self) -> Score:
        """Metrics so far."""
        # Rounding may make the mean slightly negative.
        kl = None if self._kl.mean is None else max(self._kl.mean, 0.0)
        score = Score(None, kl, self.samples, self.labelled, kl_error=self._kl.error)
        if self.task.answers == "embeddings":
            return replace(score, **self._embeddings.scores())
        if not self.labelled:
            return score
        if self._nll.mean is not None:
            perplexity = math.exp(min(self._nll.mean, _MAX_EXPONENT))
            # To first order the error of exp(x) is exp(x) times that of x.
            error = None if self._nll.error is None else finite_or_none(perplexity * self._nll.error)
            return replace(score, perplexity=perplexity, perplexity_error=error)
        if self.task.answers == "labels":
            return replace(score, f1=self._labels.f1, f1_error=self._labels.error)
        if self.task.answers == "values":
            (spearman, spearman_error), (rmse, rmse_error) = self._values.spearman(), self._values.rmse()
            return replace(
                score, spearman=spearman, spearman_error=spearman_error, rmse=rmse, rmse_error=rmse_error
            )  # fmt: skip
        return replace(
            score,
            accuracy=int(self._correct.sum()) / self.labelled,
            f1=self._f1() if "f1" in self.task.metrics else None,
            majority=int(self._true.max()) / self.labelled,
        )

    def _f1(self) -> float:
        hits, total = 2 * self._correct.double(), (self._predicted + self._true).double()
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
class Predictions:
    """Predictions for one batch; `log_probs`: per model, rows of `compressor.answers`, float32 on the CPU."""

    inputs: EvaluationBatch
    labels: Tensor | None
    log_probs: tuple[Tensor, ...]


def predict(models: Sequence[PreTrainedModel], batches: Iterable[EvaluationBatch]) -> Iterator[Predictions]:
    """One forward pass per model and batch; batches with many logits are split.

    Raises:
        UserError: no samples, labels in only some batches, or NaN.
        UnsupportedError: logits do not fit the task.
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
            for part in _split(batch, models[0].config):
                inputs = without_labels(part)
                yield Predictions(inputs, part.get("labels"), tuple(_forward(model, inputs) for model in models))
    finally:
        for model, mode in zip(models, training, strict=True):
            model.train(mode)
    if not labelled:
        raise UserError("nothing to evaluate: the data has no samples")


def measure_accuracy(models: Sequence[PreTrainedModel], batches: Iterable[EvaluationBatch]) -> list[Score]:
    """Scores of models on labelled batches."""
    tallies = [new_tally(model) for model in models]
    for predictions in predict(models, batches):
        for tally, log_probs in zip(tallies, predictions.log_probs, strict=True):
            tally.add(log_probs, predictions.inputs, predictions.labels)
    return [tally.score() for tally in tallies]


@dataclass(frozen=True)
class DeployedScore:
    """Metrics of an exported file against its model.

    Attributes:
        agreement: share of equal answers; None for values.
        error: ‖file's logits − model's‖ / ‖model's‖, of classes each row less its mean.
    """

    score: Score
    agreement: float | None
    error: float


def measure_deployed(
    model: PreTrainedModel, files: Mapping[str, Callable[[EvaluationBatch], Tensor]], batches: Iterable[EvaluationBatch]
) -> tuple[Score, dict[str, DeployedScore]]:
    """Scores of a model and its `files`, functions from inputs to logits [B, C] or [B, T, C].

    Raises:
        UserError: no samples, or labels in only some batches.
    """
    model_tally, tallies = new_tally(model), {name: new_tally(model) for name in files}
    answers = ANSWERS[model_tally.task.answers]
    agreeing: dict[str, int | None] = dict.fromkeys(files)
    squared_errors = dict.fromkeys(files, 0.0)
    rows, squared_norm = 0, 0.0
    for predictions in predict([model], batches):
        (reference,) = predictions.log_probs
        model_tally.add(reference, predictions.inputs, predictions.labels)
        expected = model_tally.task.counted(reference, predictions.inputs).double()
        centred = _free(answers, expected)
        rows, squared_norm = rows + len(expected), squared_norm + float(centred.square().sum())
        for name, run in files.items():
            log_probs = answers.rows(run(predictions.inputs).float())
            tallies[name].add(log_probs, predictions.inputs, predictions.labels, reference)
            counted = model_tally.task.counted(log_probs, predictions.inputs).double()
            same = answers.agree(expected, counted)
            agreeing[name] = None if same is None else (agreeing[name] or 0) + int(same.sum())
            squared_errors[name] += float((_free(answers, counted) - centred).square().sum())
    return model_tally.score(), {
        name: DeployedScore(
            tally.score(),
            None if (count := agreeing[name]) is None else count / rows,
            math.sqrt(squared_errors[name] / max(squared_norm, 1e-24)),
        )
        for name, tally in tallies.items()
    }


def _free(answers: Answers, rows: Tensor) -> Tensor:
    """Rows without the constant that classes' log-probabilities leave open."""
    return rows - rows.mean(-1, keepdim=True) if answers is ANSWERS["classes"] else rows


def new_tally(model: PreTrainedModel) -> Tally:
    """An empty tally for a model."""
    return Tally(task_of_model(model), outside_class(model.config))


def outside_class(config: PretrainedConfig) -> int | None:
    """A tagger's class "O", if any."""
    names = {str(name).upper(): int(index) for index, name in (config.id2label or {}).items()}
    return names.get("O")


def score_model(
    log_probs: Tensor,
    labels: Tensor | None = None,
    reference_log_probs: Tensor | None = None,
    task: Task = TASKS["text-classification"],
) -> Score:
    """The score of log-probabilities [N, C]; labels [N], negative if unknown; reference [N, C]."""
    tally = Tally(task)
    tally.add(log_probs, {}, labels, reference_log_probs)
    return tally.score()


def _split(batch: EvaluationBatch, config: PretrainedConfig) -> Iterator[EvaluationBatch]:
    size = max(1, MOST_EVALUATED_LOGITS // logits_of_sample(config, batch))
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: value[start : start + size] for name, value in batch.items()}


@torch.inference_mode()
def _forward(model: PreTrainedModel, inputs: EvaluationBatch) -> Tensor:
    moved = {name: value.to(model.device) for name, value in inputs.items()}
    task = task_of_model(model)
    logits = model_answers_of(model, model(**moved, **pass_options(model)), moved)
    if logits is None or logits.dim() != (2 if task.mask is None else 3):
        actual = "no logits" if logits is None else f"logits {tuple(logits.shape)}"
        raise UnsupportedError(f"{type(model).__name__} cannot be measured as {task.name}: it gives {actual}")
    log_probs = ANSWERS[task.answers].rows(logits.float()).cpu()
    if log_probs.isnan().any():
        name = model.name_or_path or f"a {type(model).__name__} that was just made"
        raise UserError(f"{name} answers NaN: its weights are broken or far too large")
    return log_probs

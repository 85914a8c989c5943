"""Metrics of models and exported files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from compressor.bench.answer_tallies import TallySetting
from compressor.bench.embedding_scores import EmbeddingTally
from compressor.bench.metrics import METRICS
from compressor.bench.sample_mean import SampleMean, sample_owners
from compressor.bench.tallies import TALLIES
from compressor.ensemble.answers import ANSWERS, Answers, ClassAnswers
from compressor.errors import UserError
from compressor.models.inputs import logits_of_sample, pass_options, without_labels
from compressor.models.tasks.table import TASKS, task_logits, task_of_model
from compressor.models.tasks.task import IMPOSSIBLE, Task

EvaluationBatch = Mapping[str, Tensor]

#: Most logits of one forward pass; larger batches of language models are split.
MOST_EVALUATED_LOGITS = 1 << 24


@dataclass(frozen=True)
class Score:
    """Metrics of one model; None if unavailable.

    Attributes:
        accuracy: in [0, 1], of samples or tokens.
        kl: KL(reference ‖ model) in nats, mean over positions that count.
        f1: of class 1 of two, else the mean over occurring classes; of taggers, over all but "O"; of labels, over all;
            of answers to questions, of their words.
        perplexity: exp of the labels' mean −log p.
        spearman, rmse: rank correlation and root mean square error of values.
        kl_error and others: standard errors, over samples.
        majority: share of the commonest class among the labels of a classifier.
        others: metrics of `compressor.bench.metrics` without a field here, and their standard errors.
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
    others: Mapping[str, float | None] = field(default_factory=dict)

    def metrics(self) -> dict[str, float | None]:
        """All metrics by name; those without a field only where known."""
        return {name: self.value(name) for name in METRICS if name in _FIELDS or name in self.others}

    def value(self, name: str) -> float | None:
        """A metric or its standard error by name; None if unavailable."""
        return self.others.get(name, getattr(self, name, None))

    @property
    def accuracy_error(self) -> float | None:
        """Standard error of the accuracy; None of pixels, which depend on each other."""
        if self.accuracy is None or "miou" in self.others:
            return None
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.labelled)


_FIELDS = frozenset(each.name for each in fields(Score))


class Tally:
    """Sums over batches for a `Score`, by the tally of the task's main metric."""

    def __init__(self, task: Task, outside: int | None = None, references: Any = None, model: Any = None) -> None:
        self.task = task
        self.samples = 0
        self._kl = SampleMean()
        self._answers = (
            TALLIES[task.metrics[0]](TallySetting(task, outside, references, model)) if task.metrics else None
        )

    def add(
        self, log_probs: Tensor, inputs: EvaluationBatch, labels: Tensor | None = None, reference: Tensor | None = None
    ) -> None:
        """Add one batch: rows of `compressor.ensemble.answers` [B, ..., C], and labels as of `Task.answered`."""
        if isinstance(self._answers, EmbeddingTally):
            self._answers.compare(log_probs, reference)
        if labels is not None and self._answers is not None:
            self._answers.add(log_probs, labels.cpu(), inputs, self.samples)
        self.samples += len(log_probs)
        if reference is not None:
            # Boxes of one sample stay together, and have one divergence.
            owners = self.task.counted(sample_owners(log_probs), inputs).flatten(1)[:, 0]
            counted = self.task.counted(log_probs, inputs)
            divergence = ANSWERS[self.task.answers].divergence(self.task.counted(reference, inputs), counted)
            self._kl.add(divergence, owners)

    def score(self) -> Score:
        """Metrics so far."""
        # Rounding may make the mean slightly negative.
        kl = None if self._kl.mean is None else max(self._kl.mean, 0.0)
        labelled = 0 if self._answers is None else self._answers.labelled
        score = Score(None, kl, self.samples, labelled, kl_error=self._kl.error)
        if self._answers is None or not (labelled or isinstance(self._answers, EmbeddingTally)):
            return score
        found = self._answers.metrics()
        own = {name: value for name, value in found.items() if name in _FIELDS}
        return replace(score, **own, others={name: value for name, value in found.items() if name not in _FIELDS})


@dataclass(frozen=True)
class Predictions:
    """Predictions for one batch; `log_probs`: per model, rows of `compressor.ensemble.answers`, float32 on the CPU."""

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


def measure_accuracy(
    models: Sequence[PreTrainedModel], batches: Iterable[EvaluationBatch], *, speaks: bool = False
) -> list[Score]:
    """Scores of models on labelled batches; `speaks` as of `new_tally`."""
    tallies = [new_tally(model, batches, speaks=speaks) for model in models]
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
    """Scores of a model and its `files`, functions from inputs to logits [B, ..., C].

    Raises:
        UserError: no samples, or labels in only some batches.
    """
    model_tally, tallies = new_tally(model, batches), {name: new_tally(model, batches) for name in files}
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
    if not isinstance(answers, ClassAnswers):
        return rows
    # Positions that cannot be answered are far below all others.
    possible = rows > IMPOSSIBLE / 2
    means = rows.where(possible, 0.0).sum(-1, keepdim=True) / possible.sum(-1, keepdim=True).clamp(min=1)
    return (rows - means).where(possible, 0.0)


def new_tally(model: PreTrainedModel, batches: Any = None, *, speaks: bool = False) -> Tally:
    """An empty tally for a model's answers to all `batches`, in their order.

    Args:
        speaks: whether the model is also asked what it says of sounds, which an ensemble or a file cannot be.
    """
    references = getattr(batches, "references", None)
    return Tally(task_of_model(model), outside_class(model.config), references, model if speaks else None)


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
    logits = task_logits(task, model(**moved, **pass_options(model)), moved, type(model).__name__)
    log_probs = ANSWERS[task.answers].rows(logits.float()).cpu()
    if log_probs.isnan().any():
        name = model.name_or_path or f"a {type(model).__name__} that was just made"
        raise UserError(f"{name} answers NaN: its weights are broken or far too large")
    return log_probs

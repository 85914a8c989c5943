"""Scores on evaluation samples, and rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from compressor.bench.accuracy import EvaluationBatch, Score, new_tally, predict
from compressor.bench.metrics import METRICS, MISSING, main_metric
from compressor.bench.rows import ROW_FIELDS, Row, make_row
from compressor.bench.size import count_macs, count_parameters, weight_bytes
from compressor.ensemble.answers import model_answers
from compressor.models.teacher import Teacher
from compressor.pipeline.scores.differences import SHOWN_SAMPLES, Breakdown, differences_report
from compressor.pipeline.scores.shown_samples import sample_report
from compressor.pipeline.timing import Timing
from compressor.utils.markdown import visible_line

if TYPE_CHECKING:
    # Imports the library datasets, needed only to read data.
    from compressor.data.batches import Batches
    from compressor.data.tensor_batches import TensorBatches

#: Memory for the ensemble's predictions on the evaluation samples.
REFERENCE_BYTES = 1 << 28


@dataclass(frozen=True)
class EvaluatedModel:
    """A model of the table.

    Attributes:
        models: one, or an ensemble's.
        bytes: of all weights on disk.
        score: None without samples.
    """

    name: str
    models: tuple[PreTrainedModel, ...]
    bytes: int
    score: Score | None

    def row(self, timing: Timing | None, length: int = 128) -> Row:
        """The model's table row; `length` in tokens."""
        return make_row(
            name=self.name,
            kl=self.score.kl if self.score else None,
            kl_error=self.score.kl_error if self.score else None,
            **score_columns(self.score),
            parameters=sum(count_parameters(model) for model in self.models),
            macs=sum(count_macs(model, length=length) for model in self.models),
            bytes=self.bytes,
            **(timing.columns() if timing else {}),
        )


class Evaluator:
    """Scores of teachers, ensemble and other models.

    It keeps the ensemble's predictions, so each teacher runs once; if they exceed `room`, the teachers run again for
    every other model.

    Args:
        weights, mixing: of the ensemble's prediction (`ensemble.mix_predictions`).
        batches: iterated once per score.
        room: bytes.
        progress: called with the fraction done.
    """

    def __init__(
        self,
        teachers: Sequence[PreTrainedModel],
        weights: Sequence[float],
        batches: Batches | TensorBatches,
        room: int = REFERENCE_BYTES,
        progress: Callable[[float], None] | None = None,
        mixing: float = 1.0,
    ) -> None:
        self._batches, self._models, self._weights, self._mixing = batches, list(teachers), list(weights), mixing
        self._answers = model_answers(teachers[0])
        tallies = [new_tally(model, batches, speaks=True) for model in teachers]
        ensemble = new_tally(teachers[0], batches)
        breakdowns = [Breakdown(ensemble.task, domains=batches.domains) for _ in (*teachers, ensemble)]
        references: list[Tensor] | None = []
        for batch in predict(teachers, _with_progress(batches, progress)):
            reference = self._answers.mix(batch.log_probs, weights, mixing)
            rows = [*batch.log_probs, reference]
            for tally, breakdown, log_probs in zip([*tallies, ensemble], breakdowns, rows, strict=True):
                tally.add(log_probs, batch.inputs, batch.labels, reference)
                if breakdown.possible:
                    breakdown.add(log_probs, batch.inputs, batch.labels, reference)
            room -= reference.nbytes
            if references is not None and room >= 0:
                references.append(reference)
            else:
                references = None
        self._references = references
        #: In the order of the teachers; KL is to the ensemble.
        self.teachers = [tally.score() for tally in tallies]
        self.ensemble = ensemble.score()
        #: Of the teachers, of their ensemble if there are several, and of every model that was scored.
        self.breakdowns = breakdowns if len(tallies) > 1 else breakdowns[:1]

    @property
    def runs_teachers(self) -> bool:
        """Whether `score` runs the teachers too."""
        return self._references is None

    def score(self, model: PreTrainedModel, progress: Callable[[float], None] | None = None) -> Score:
        """Another model's score, and its KL to the ensemble."""
        references = self._references
        tally = new_tally(model, self._batches, speaks=True)
        models = [model, *(self._models if references is None else [])]
        breakdown = Breakdown(tally.task, SHOWN_SAMPLES, self._batches.domains)
        for index, batch in enumerate(predict(models, _with_progress(self._batches, progress))):
            log_probs, *teachers = batch.log_probs
            if references is not None:
                reference = references[index]
            else:
                reference = self._answers.mix(teachers, self._weights, self._mixing)
            tally.add(log_probs, batch.inputs, batch.labels, reference)
            if breakdown.possible:
                breakdown.add(log_probs, batch.inputs, batch.labels, reference)
        self.breakdowns.append(breakdown)
        return tally.score()

    def differences(self, names: Sequence[str], processor: Any) -> dict[str, Any] | None:
        """The entry `differences` of report.json; None for answers that are no single class.

        Args:
            names: of the teachers, of their ensemble if there are several, and of the models that were scored.
            processor: image processor or tokenizer.
        """
        last, config = self.breakdowns[-1], self._models[0].config
        if not last.possible:
            return None
        classes = {int(index): visible_line(name) for index, name in (config.id2label or {}).items()}
        samples = [sample_report(sample, last.task, processor, classes) for sample in last.furthest]
        return differences_report(dict(zip(names, self.breakdowns, strict=True)), classes, samples)

    def report(self) -> dict[str, Any]:
        """Data, sample counts, standard error of the ensemble's accuracy, share of the commonest class."""
        return {
            "data": self._batches.split.name,
            "samples": self.ensemble.samples,
            "labelled": self.ensemble.labelled,
            "accuracy_error": self.ensemble.accuracy_error,
            "majority": self.ensemble.majority,
        }


def score_columns(score: Score | None) -> dict[str, float | None]:
    """A score's metrics and their standard errors, by name."""
    names = [field for name in METRICS for field in (name, f"{name}_error")]
    columns = {name: score.value(name) if score else None for name in names}
    # A metric of few tasks is named where it is known.
    return {name: value for name, value in columns.items() if name in ROW_FIELDS or value is not None}


def describe_score(score: Score | None) -> str:
    """A score in words, such as "59.6 %"."""
    if score is None:
        return MISSING
    scores = score_columns(score)
    if (metric := main_metric(scores)) is not None:
        text = metric.format(scores[metric.name])
        return text if metric.percent else f"{metric.title} {text}"
    return MISSING if score.kl is None else f"KL {score.kl:.3f}"


def _with_progress(
    batches: Batches | TensorBatches, progress: Callable[[float], None] | None
) -> Iterator[EvaluationBatch]:
    """The batches; reports the fraction done before each."""
    for index, batch in enumerate(batches):
        yield batch
        if progress is not None:
            progress((index + 1) / len(batches))


def short_names(names: Sequence[str]) -> list[str]:
    """Last parts of paths, or whole names if not unique."""
    short = [Path(name).name or name for name in names]
    unique = [last if short.count(last) == 1 else name for last, name in zip(short, names, strict=True)]
    return [
        name if unique.count(name) == 1 else f"{name} ({unique[: index + 1].count(name)})"
        for index, name in enumerate(unique)
    ]


def stored_bytes(teacher: Teacher) -> int:
    """Bytes of weight files, or of tensors if from the Hub."""
    folder = Path(teacher.source.location)
    return weight_bytes(folder) if folder.is_dir() else weight_bytes(teacher.model)


def evaluated_teachers(teachers: Sequence[Teacher], evaluator: Evaluator | None) -> list[EvaluatedModel]:
    """The teachers, then their ensemble if several."""
    names = short_names([teacher.name for teacher in teachers])
    models = [
        EvaluatedModel(name, (teacher.model,), stored_bytes(teacher), evaluator.teachers[index] if evaluator else None)
        for index, (name, teacher) in enumerate(zip(names, teachers, strict=True))
    ]
    if len(teachers) > 1:
        members = tuple(teacher.model for teacher in teachers)
        size = sum(model.bytes for model in models)
        models.append(EvaluatedModel("ensemble", members, size, evaluator.ensemble if evaluator else None))
    return models


def make_rows(models: Sequence[EvaluatedModel], timings: Mapping[str, Timing], *, length: int = 128) -> list[Row]:
    """Rows of the table; `length` in tokens."""
    return [model.row(timings.get(model.name), length) for model in models]

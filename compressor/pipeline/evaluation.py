"""Scores on evaluation samples, and the rows of the one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from compressor.bench.accuracy import EvaluationBatch, Score, new_tally, predict
from compressor.bench.rows import MISSING, Row, format_perplexity
from compressor.bench.size import count_macs, count_parameters, weight_bytes
from compressor.ensemble import mix_predictions
from compressor.models.teacher import Teacher
from compressor.pipeline.timing import Timing

if TYPE_CHECKING:
    # The library datasets, which a table that reads no data does without.
    from compressor.data.batches import Batches

#: Memory for the ensemble's answers on the evaluation samples.
REFERENCE_BYTES = 1 << 28


@dataclass(frozen=True)
class EvaluatedModel:
    """One row before it is a row.

    Attributes:
        name: as in the table.
        models: one model, or several that answer together.
        bytes: of all their weights on disk.
        score: None where nothing could be evaluated.
    """

    name: str
    models: tuple[PreTrainedModel, ...]
    bytes: int
    score: Score | None

    def row(self, timing: Timing | None, length: int = 128) -> Row:
        """The finished row."""
        return Row(
            name=self.name,
            accuracy=self.score.accuracy if self.score else None,
            kl=self.score.kl if self.score else None,
            f1=self.score.f1 if self.score else None,
            perplexity=self.score.perplexity if self.score else None,
            parameters=sum(count_parameters(model) for model in self.models),
            macs=sum(count_macs(model, length=length) for model in self.models),
            bytes=self.bytes,
            **(timing.columns() if timing else {}),
        )


class Evaluator:
    """The teachers' answers on the evaluation samples.

    The ensemble's answers are kept for the models that are judged later, so that each teacher sees the samples once; if
    they are too large for that, as those of language models are, the teachers are asked again.

    Args:
        teachers: the ensemble.
        weights: one per teacher, of the mean that is the ensemble's answer.
        batches: the evaluation samples, iterated again for each model that is judged later.
        room: bytes that the ensemble's answers may take.
        progress: told the share of the samples that were seen.
    """

    def __init__(
        self,
        teachers: Sequence[PreTrainedModel],
        weights: Sequence[float],
        batches: Batches,
        room: int = REFERENCE_BYTES,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self._batches, self._models, self._weights = batches, list(teachers), list(weights)
        tallies, together = [new_tally(model) for model in teachers], new_tally(teachers[0])
        kept: list[Tensor] | None = []
        for found in predict(teachers, _telling(batches, progress)):
            reference = mix_predictions(found.log_probs, weights)
            for tally, one in zip([*tallies, together], [*found.log_probs, reference], strict=True):
                tally.add(one, found.inputs, found.labels, reference)
            room -= reference.nbytes
            if kept is not None and room >= 0:
                kept.append(reference)
            else:
                kept = None
        self._kept = kept
        #: In the order of the teachers; KL is to the ensemble.
        self.teachers = [tally.score() for tally in tallies]
        self.ensemble = together.score()

    @property
    def asks_again(self) -> bool:
        """Whether judging another model runs the teachers too."""
        return self._kept is None

    def score(self, model: PreTrainedModel, progress: Callable[[float], None] | None = None) -> Score:
        """The score of another model, and its KL to the ensemble."""
        tally, models = new_tally(model), [model, *(self._models if self._kept is None else [])]
        for index, found in enumerate(predict(models, _telling(self._batches, progress))):
            own, *others = found.log_probs
            reference = mix_predictions(others, self._weights) if self._kept is None else self._kept[index]
            tally.add(own, found.inputs, found.labels, reference)
        return tally.score()

    def report(self) -> dict[str, Any]:
        """On what, how many samples and labels there were, and the standard error of the ensemble's accuracy."""
        return {
            "data": self._batches.split.name,
            "samples": self.ensemble.samples,
            "labelled": self.ensemble.labelled,
            "accuracy_error": self.ensemble.accuracy_error,
        }


def describe_score(score: Score | None) -> str:
    """A score in a few words, such as "59.6 %"."""
    if score is None:
        return MISSING
    if score.perplexity is not None:
        return f"perplexity {format_perplexity(score.perplexity)}"
    if score.accuracy is not None:
        return f"{100 * score.accuracy:.1f} %"
    return MISSING if score.kl is None else f"KL {score.kl:.3f}"


def _telling(batches: Batches, progress: Callable[[float], None] | None) -> Iterator[EvaluationBatch]:
    """The batches, and the share of them that is done once the next is asked for."""
    for index, batch in enumerate(batches):
        yield batch
        if progress is not None:
            progress((index + 1) / len(batches))


def short_names(names: Sequence[str]) -> list[str]:
    """Names for a table: the last part of each path, or what was written where that is not unique."""
    short = [Path(name).name or name for name in names]
    found = [one if short.count(one) == 1 else name for one, name in zip(short, names, strict=True)]
    return [
        name if found.count(name) == 1 else f"{name} ({found[: index + 1].count(name)})"
        for index, name in enumerate(found)
    ]


def stored_bytes(teacher: Teacher) -> int:
    """Bytes of a model's weights where it is stored; of its tensors if that is the Hub."""
    folder = Path(teacher.source.location)
    return weight_bytes(folder) if folder.is_dir() else weight_bytes(teacher.model)


def evaluated_teachers(teachers: Sequence[Teacher], judge: Evaluator | None) -> list[EvaluatedModel]:
    """Each teacher, then their ensemble if there are several."""
    names = short_names([teacher.name for teacher in teachers])
    found = [
        EvaluatedModel(name, (teacher.model,), stored_bytes(teacher), judge.teachers[index] if judge else None)
        for index, (name, teacher) in enumerate(zip(names, teachers, strict=True))
    ]
    if len(teachers) > 1:
        together = tuple(teacher.model for teacher in teachers)
        size = sum(subject.bytes for subject in found)
        found.append(EvaluatedModel("ensemble", together, size, judge.ensemble if judge else None))
    return found


def make_rows(subjects: Sequence[EvaluatedModel], timings: Mapping[str, Timing], *, length: int = 128) -> list[Row]:
    """The rows in the order of the subjects; `length` is the tokens of a text sample."""
    return [subject.row(timings.get(subject.name), length) for subject in subjects]

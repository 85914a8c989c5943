"""Scores on evaluation samples, and the rows of the one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.bench.accuracy import Batch, Score, mix, predict, score
from compressor.bench.flops import count_macs
from compressor.bench.size import count_parameters, weight_bytes
from compressor.bench.table import Row
from compressor.models.load import Teacher
from compressor.pipeline.measure import Timing


@dataclass(frozen=True)
class Subject:
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
            parameters=sum(count_parameters(model) for model in self.models),
            macs=sum(count_macs(model, length=length) for model in self.models),
            bytes=self.bytes,
            **(timing.columns() if timing else {}),
        )


class Judge:
    """The teachers' answers on the evaluation samples; each teacher sees them once.

    Args:
        teachers: the ensemble.
        weights: one per teacher, of the mean that is the ensemble's answer.
        batches: the evaluation samples, iterated again for each model that is judged later.
    """

    def __init__(self, teachers: Sequence[PreTrainedModel], weights: Sequence[float], batches: Iterable[Batch]) -> None:
        self._batches = batches
        answers = predict(teachers, batches)
        self._labels = answers.labels
        self._reference = mix(answers.log_probs, weights)
        #: In the order of the teachers; KL is to the ensemble.
        self.teachers = [score(one, self._labels, self._reference) for one in answers.log_probs]
        self.ensemble = score(self._reference, self._labels, self._reference)

    def score(self, model: PreTrainedModel) -> Score:
        """Accuracy and KL to the ensemble of another model."""
        return score(predict([model], self._batches).log_probs[0], self._labels, self._reference)

    def report(self) -> dict[str, Any]:
        """How many samples there were, and the standard error of the ensemble's accuracy."""
        return {
            "samples": self.ensemble.samples,
            "labelled": self.ensemble.labelled,
            "accuracy_error": self.ensemble.accuracy_error,
        }


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


def teacher_subjects(teachers: Sequence[Teacher], judge: Judge | None) -> list[Subject]:
    """Each teacher, then their ensemble if there are several."""
    names = short_names([teacher.name for teacher in teachers])
    found = [
        Subject(name, (teacher.model,), stored_bytes(teacher), judge.teachers[index] if judge else None)
        for index, (name, teacher) in enumerate(zip(names, teachers, strict=True))
    ]
    if len(teachers) > 1:
        together = tuple(teacher.model for teacher in teachers)
        size = sum(subject.bytes for subject in found)
        found.append(Subject("ensemble", together, size, judge.ensemble if judge else None))
    return found


def make_rows(subjects: Sequence[Subject], timings: Mapping[str, Timing], *, length: int = 128) -> list[Row]:
    """The rows in the order of the subjects; `length` is the tokens of a text sample."""
    return [subject.row(timings.get(subject.name), length) for subject in subjects]

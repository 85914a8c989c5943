"""Pilots: students built on few samples, to compare candidates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from compressor.anatomy import Anatomy
from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import model_answers
from compressor.fusion.build.served_parts import ServedParts
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import Batch, CalibrationSet, take_samples
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.context import FusionContext
from compressor.fusion.teacher import FusionTeacher
from compressor.models.inputs import dummy_inputs, without_labels
from compressor.models.tasks.table import task_of_model

#: Calibration samples of a pilot.
PILOT_SAMPLES = 64
#: Random inputs that score pilots where there are no held-out samples.
RANDOM_SAMPLES = 16
#: About the most held-out logits that are scored, to limit memory.
MOST_SCORED_LOGITS = 1 << 26
#: Share by which a candidate must beat the default one.
MARGIN = 0.01


class PilotScorer:
    """KL(ensemble || student) on held-out samples, of the mean and the worst part (`ServedParts`).

    Without answers, relative squared error of features.
    """

    def __init__(
        self, teachers: Sequence[FusionTeacher], held_out: Sequence[Batch], anatomy: Anatomy, mixing: float = 1.0
    ) -> None:
        self.teachers, self.held_out, self.mixing = teachers, held_out, mixing
        answers = bool(task_of_model(teachers[0].model).metrics)
        #: Space of the features that are compared where nothing is answered.
        self.output = None if answers else anatomy.output

    @property
    def measure(self) -> str:
        """The score's key in the report."""
        if self.output is not None:
            return "held_out_error"
        return "held_out_kl_and_worst" if self.teachers_disagree else "held_out_kl"

    @property
    def teachers_disagree(self) -> bool:
        """Whether parts of the samples are judged on their own."""
        return self.output is None and bool(self.parts.judged)

    @cached_property
    def parts(self) -> ServedParts:
        """What is judged, limited in number."""
        models, shares = [t.model for t in self.teachers], [t.weight for t in self.teachers]
        return ServedParts.of(
            models, shares, self.held_out, self.mixing, answers=model_answers(models[0]),
            next_tokens=task_of_model(models[0]).shift, most_logits=MOST_SCORED_LOGITS,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, student: StudentBuilder) -> float:
        if self.output is None:
            return self.parts.score(student.model)
        squares, energy = 0.0, 0.0
        for batch in self.held_out:
            inputs = without_labels(batch)
            features = token_rows(logits_of(student.model, inputs), None).double()
            target = torch.zeros_like(features)
            for teacher, maps in zip(self.teachers, student.maps, strict=True):
                rows = token_rows(logits_of(teacher.model, inputs), None)
                target += maps[self.output].transport(rows).double()
            squares += float((features - target).square().sum())
            energy += float((target - target.mean(0)).square().sum())
        share = squares / max(energy, 1e-30)
        return share if share == share else float("inf")


def within_margin(score: float, best: float) -> bool:
    """Whether a score is about as good as the best."""
    return score <= (1 + MARGIN) * best + 1e-9


def pilot_set(context: FusionContext, samples: int = PILOT_SAMPLES) -> CalibrationSet:
    """Train samples of a pilot."""
    assert context.calibration is not None
    return CalibrationSet(take_samples(context.calibration.train, samples))


def scoring_batches(context: FusionContext) -> Sequence[Batch]:
    """Held-out samples, or random inputs."""
    if context.calibration is not None and context.calibration.held_out:
        return context.calibration.held_out
    first = next(context.model.parameters())
    return [dummy_inputs(context.model.config, RANDOM_SAMPLES, dtype=first.dtype, device=first.device)]

"""Fit the last layer, its norm and the head together, to the ensemble's predictions.

Streams are reconstructed as weighted means of the teachers'.  A mean of probabilities is no function of these that a
linear head could compute; a layer before it can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressor.ensemble.answers import ANSWERS, Answers, ClassAnswers, model_answers
from compressor.fusion.build.head import locate_head
from compressor.fusion.build.reconstruction import descend, least_tokens, parameter_scales
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import token_rows
from compressor.models.tasks.table import task_of_model

#: Multiplications of the head in all steps: large vocabularies get fewer steps.
PREDICTION_WORK = 1 << 38
#: Steps to which that may shorten a fit; fewer gain too little.
FEWEST_STEPS = 50
#: Fewest predictions of one step.
STEP_PREDICTIONS = 256
#: Most entries of the ensemble's predictions that are kept between steps.
KEPT_ENTRIES = 1 << 26


@dataclass(eq=False)
class PredictionTarget:
    """Mean KL(ensemble || student) in nats.

    Attributes:
        student: rows of `compressor.ensemble.answers` of a batch [P, classes], with gradients.
        ensemble: the same of the ensemble.
        answers: what they mean.
        room: entries that may still be kept.
    """

    student: Callable[[int], Tensor]
    ensemble: Callable[[int], Tensor]
    answers: Answers = ANSWERS["classes"]
    room: int = KEPT_ENTRIES
    kept: dict[int, Tensor] = field(default_factory=dict)

    def error(self, batches: Sequence[int]) -> Tensor:
        terms = []
        for index in batches:
            target = self.of(index)
            if isinstance(self.answers, ClassAnswers):
                terms.append((target.exp() * (target.clamp(min=-1e4) - self.student(index))).sum(-1))
            else:
                terms.append(self.answers.divergence(target, self.student(index)))
        return torch.cat(terms).mean()

    @torch.no_grad()
    def of(self, index: int) -> Tensor:
        """The ensemble's answers of a batch."""
        if index in self.kept:
            return self.kept[index]
        target = self.ensemble(index)
        if target.numel() <= self.room:
            self.room -= target.numel()
            self.kept[index] = target
        return target


def reconstruct_predictions(
    student: StudentBuilder,
    layer: str,
    entering: Sequence[Tensor],
    runner: LayerwiseRunner,
    teachers: Sequence[LayerwiseRunner],
    masks: Masks,
    calibration: CalibrationSet,
) -> None:
    """Fit the last layer and what comes after it to the ensemble's predictions, if held-out samples gain.

    Only of language models, whose score is a likelihood: classifiers of unlike teachers came nearer to the mixture so
    and were right less often (benchmarks/NOTES.md).

    Args:
        layer: the last one; it and the head are fitted already.
        entering: its inputs, per batch.
        runner, teachers: after their last layers.
        calibration: a batch per step (`reconstruction.samples_per_step`).
    """
    located = locate_head(student)
    scored = "perplexity" in task_of_model(student.model).metrics
    if located is None or not (calibration.held_out and scored):
        return
    answers = model_answers(student.model)
    head, shares, mixing = located[0], [teacher.weight for teacher in student.teachers], student.options.mixing

    def of_student(index: int) -> Tensor:
        logits = runner.predict(layer, index, entering[index])
        return answers.rows(token_rows(logits, masks.of(index, head)))

    def of_ensemble(index: int) -> Tensor:
        rows = [answers.rows(token_rows(t.logits(index), masks.of(index, head))) for t in teachers]
        return answers.mix(rows, shares, mixing)

    indices: dict[bool, list[int]] = {False: [], True: []}
    for index in range(len(masks)):
        indices[calibration.is_held_out(index)].append(index)
    target = PredictionTarget(of_student, of_ensemble, answers)
    groups = _grouped(indices[False], [len(target.of(index)) for index in indices[False]])
    tokens = sum(entering[index].shape[:-1].numel() for index in indices[False])
    asked = student.options.reconstruction_steps
    steps = min(asked, PREDICTION_WORK // _step_work(target, groups[0], entering))
    if steps < min(asked, FEWEST_STEPS) or tokens < least_tokens():
        return
    before, after = descend(_scales(student, layer), target, groups, indices[True], steps)
    if after < before:
        student.report.last_layer = {"module": layer, "before": before, "after": after}


def _grouped(indices: Sequence[int], predictions: Sequence[int]) -> list[list[int]]:
    """Batches of at least `STEP_PREDICTIONS` predictions a step."""
    groups: list[list[int]] = [[]]
    count = 0
    for index, number in zip(indices, predictions, strict=True):
        if count >= STEP_PREDICTIONS:
            groups.append([])
            count = 0
        groups[-1].append(index)
        count += number
    return groups


def _step_work(target: PredictionTarget, group: Sequence[int], entering: Sequence[Tensor]) -> int:
    """Multiplications of the head in one step."""
    return sum(target.of(index).numel() for index in group) * entering[0].shape[-1]


def _scales(student: StudentBuilder, layer: str) -> dict[nn.Parameter, float]:
    """The parameters of the layer and of what comes after it; an embedding that is the head too stays."""
    model, late = student.model, student.plan.late_parameters
    owners = dict.fromkeys(name.rpartition(".")[0] for name in late)
    modules = [*model.get_submodule(layer).modules(), *(model.get_submodule(owner) for owner in owners)]
    fitted = {*model.get_submodule(layer).parameters(), *(student.parameters[name] for name in late)}
    return {parameter: scale for parameter, scale in parameter_scales(modules).items() if parameter in fitted}

"""Fit all that comes after the layers by descent, where closed forms do not reach it.

Heads of segmentation have convolutions and norms of maps; detectors have several heads.  One linear map is fitted in
closed form (`compressor.fusion.build.head`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressor.ensemble.answers import model_answers
from compressor.fusion.build.head import locate_head
from compressor.fusion.build.last_layer import FEWEST_STEPS, PredictionTarget
from compressor.fusion.build.reconstruction import descend, parameter_scales
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.models.tasks.table import task_of_model

#: Steps of a fit, and multiplications in all of them: large maps get fewer steps.
TAIL_STEPS, TAIL_WORK = 300, 1 << 40


def fit_tail(
    student: StudentBuilder,
    runner: LayerwiseRunner,
    teachers: Sequence[LayerwiseRunner],
    calibration: CalibrationSet,
) -> None:
    """Fit the parameters after the layers to the ensemble's predictions, if held-out samples gain.

    Args:
        student: otherwise built; unchanged where closed forms fit all of its head.
        runner, teachers: after their last layers.
    """
    if not calibration.held_out or not needs_descent(student):
        return
    task = task_of_model(student.model)
    answers, shares = model_answers(student.model), [teacher.weight for teacher in student.teachers]

    def rows(model: LayerwiseRunner, index: int) -> Tensor:
        return answers.rows(task.counted(model.logits_with_gradients(index), model.batches[index]))

    def ensemble(index: int) -> Tensor:
        return answers.mix([rows(teacher, index) for teacher in teachers], shares, student.options.mixing)

    indices: dict[bool, list[int]] = {False: [], True: []}
    for index in range(len(runner.batches)):
        indices[calibration.is_held_out(index)].append(index)
    target = PredictionTarget(lambda index: rows(runner, index), ensemble, answers)
    scales = _scales(student)
    if not scales:
        return
    work = max(len(target.of(index)) for index in indices[False]) * sum(p.numel() for p in scales)
    steps = min(TAIL_STEPS, TAIL_WORK // max(work, 1))
    if steps < FEWEST_STEPS:
        return
    before, after = descend(scales, target, [[index] for index in indices[False]], indices[True], steps)
    if after < before:
        parts = dict.fromkeys(name.partition(".")[0] for name in student.plan.late_parameters)
        student.report.last_layer = {"module": ", ".join(parts), "before": before, "after": after, "layer": False}


def needs_descent(student: StudentBuilder) -> bool:
    """Whether closed forms leave some of the head to fit."""
    return student.anatomy.output is None and bool(task_of_model(student.model).metrics) and not _closed(student)


def _closed(student: StudentBuilder) -> bool:
    """Whether one linear head is all that is not fitted in closed form before."""
    fitted = {item.module for item in student.plan.tail}
    matrices = [name for name in student.plan.late_parameters if student.parameters[name].dim() > 1]
    return locate_head(student) is not None and all(name.rpartition(".")[0] in fitted for name in matrices)


def _scales(student: StudentBuilder) -> dict[nn.Parameter, float]:
    """The parameters after the layers; an embedding that is the head too stays."""
    late = {student.parameters[name] for name in student.plan.late_parameters}
    owners = dict.fromkeys(name.rpartition(".")[0] for name in student.plan.late_parameters)
    scales = parameter_scales(student.model.get_submodule(owner) for owner in owners)
    return {parameter: scale for parameter, scale in scales.items() if parameter in late}

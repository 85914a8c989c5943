"""Embeddings scaled by a number that depends on the width (Gemma: √width)."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.anatomy import Side, Stack
from compressor.anatomy.hooks import Tap, logits_of
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.capture import capture_taps, ending_early
from compressor.models.inputs import dummy_inputs

#: Relative differences below this are rounding.
GAIN_TOLERANCE = 1e-3


@torch.no_grad()
def set_embedding_gain(student: StudentBuilder) -> None:
    """Scale the embeddings so that the student's layers get the teachers' transported inputs.

    The factor is measured on random inputs.
    """
    first = next(student.model.parameters())
    inputs = dummy_inputs(student.model.config, 2, 8, dtype=first.dtype, device=first.device)  # type: ignore[arg-type]
    for index, stack in enumerate(student.anatomy.stacks):
        if student.plan.stages_before(index):
            continue
        tap: Tap = (stack.layers[0], "in")
        with capture_taps(student.model, [tap], stop=True) as captured, ending_early():
            logits_of(student.model, inputs)
        hidden = captured[tap]
        target = _transported_input(student, stack, inputs, torch.zeros_like(hidden))
        gain = float((target * hidden).sum() / hidden.square().sum().clamp(min=1e-30))
        if abs(gain - 1) > GAIN_TOLERANCE:
            student.rescale(_embedding_tables(student, stack), gain)


def _transported_input(student: StudentBuilder, stack: Stack, inputs: dict[str, Tensor], target: Tensor) -> Tensor:
    """Add transported inputs to `target`."""
    for teacher, maps in zip(student.teachers, student.maps, strict=True):
        tap: Tap = (teacher.span(stack.layers[0]).layers[0], "in")
        with capture_taps(teacher.model, [tap], stop=True) as captured, ending_early():
            logits_of(teacher.model, inputs)
        value = captured[tap]
        pushed = maps[stack.residual].transport(value.reshape(-1, value.shape[-1]))
        target += pushed.to(target).reshape(target.shape)
    return target


def _embedding_tables(student: StudentBuilder, stack: Stack) -> list[str]:
    """Outside parameters that write a stack's stream."""
    modules = {item.module for item in student.anatomy.flow}
    return [
        name
        for name in student.plan.outside_parameters
        if name.rpartition(".")[0] not in modules
        and any(
            axis.side is Side.WRITE and any(part.key == stack.residual for part in axis.parts)
            for axis in student.anatomy.axes[name]
        )
    ]

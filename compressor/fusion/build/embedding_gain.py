"""Embeddings that a family multiplies by a number that depends on the width (Gemma: √width)."""

from __future__ import annotations

import torch

from compressor.anatomy import Side
from compressor.anatomy.hooks import logits_of
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.layerwise import Tap, capture_taps
from compressor.fusion.plan import BuildPlan
from compressor.models.inputs import dummy_inputs

#: Relative differences below this are rounding.
GAIN_TOLERANCE = 1e-3


@torch.no_grad()
def set_embedding_gain(student: StudentBuilder) -> None:
    """Scale a student's embeddings so that what enters its layers is the teachers' transported.

    Embeddings transport exactly, so the ratio of the two is one number; it is measured on random inputs.  Where a norm
    stands between, it takes any factor out again.
    """
    anatomy, outline = student.anatomy, BuildPlan(student.anatomy)
    dtype = next(student.model.parameters()).dtype
    inputs = dummy_inputs(student.model.config, 2, 8, dtype=dtype)  # type: ignore[arg-type]
    for index, stack in enumerate(anatomy.stacks):
        if outline.before(index):
            continue
        spot: Tap = (stack.layers[0], "in")
        with capture_taps(student.model, [spot]) as seen:
            logits_of(student.model, inputs)
        target = torch.zeros_like(seen[spot])
        for source, maps in zip(student.sources, student.maps, strict=True):
            first: Tap = (source.route(stack.layers[0]).run[0], "in")
            with capture_taps(source.model, [first]) as shown:
                logits_of(source.model, inputs)
            value = shown[first]
            target += (
                maps[stack.residual].transport(value.reshape(-1, value.shape[-1])).to(target).reshape(target.shape)
            )
        gain = float((target * seen[spot]).sum() / seen[spot].square().sum().clamp(min=1e-30))
        if abs(gain - 1) > GAIN_TOLERANCE:
            tables = [
                name
                for name in outline.outside_parameters
                if name.rpartition(".")[0] not in {item.module for item in anatomy.flow}
                and any(
                    axis.side is Side.WRITE and any(part.key == stack.residual for part in axis.parts)
                    for axis in anatomy.axes[name]
                )
            ]
            student.rescale(tables, gain)

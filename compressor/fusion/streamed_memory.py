"""Predict the memory of a fusion whose models are read layer by layer, from configs alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedModel

from compressor.anatomy import Anatomy, Kind, inspect_config
from compressor.errors import UserError
from compressor.fusion.build.head import HEAD_ENTRIES, HEAD_WORK, TOKENS_PER_INPUT
from compressor.fusion.build.logistic import remembered_steps
from compressor.fusion.streaming import CALL_TOKENS
from compressor.models.meta import meta_model
from compressor.models.streamed import layers_of
from compressor.models.tasks.table import find_task
from compressor.utils.out_of_memory import format_bytes

SINGLE_BYTES, DOUBLE_BYTES = 4, 8
#: Python, torch, transformers and what they allocate.
PROCESS_BYTES = 600 << 20
#: Square float64 matrices that a principal component analysis holds at once.
RESIDUAL_MATRICES = 5.0
#: The same of the choice of units: moments, and a copy of them; and matrices of units by the student's coordinates.
UNIT_MATRICES, UNIT_CROSSES = 2.0, 5.0
#: Matrices of a ridge regression's inputs by inputs, and by outputs: sums, of training and held out, and the weight.
RIDGE_GRAMS, RIDGE_CROSSES = 10.0, 3.5
#: Vectors of a descent by L-BFGS in addition to those that it remembers.
DESCENT_VECTORS = 14
#: Hidden states in memory at least.
LEAST_STORE_BYTES = 128 << 20


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes of a fusion.

    Attributes:
        residual, layer, tail: of its stages, without kept hidden states.
        per_token: of hidden states and activations of one layer.
    """

    residual: int
    layer: int
    tail: int
    per_token: int

    @property
    def fixed(self) -> int:
        """The most of any stage."""
        return max(self.residual, self.layer, self.tail)

    def peak(self, tokens: int, limit: int) -> int:
        """The most bytes, with a limit."""
        return max(self.fixed, min(limit, self.layer + tokens * self.per_token))

    def budget(self, limit: int) -> int:
        """Bytes for hidden states within a limit.

        Raises:
            UserError: it is too small.
        """
        least = self.fixed + LEAST_STORE_BYTES
        if limit < least:
            raise UserError(
                f"these teachers need {format_bytes(least)} even layer by layer: give --max-memory "
                f"{math.ceil(least / 1e8) / 10:.1f}GB or more"
            )
        return limit - self.fixed


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters outside the layers, of the largest layer, and of the largest parameter in one."""

    outside: int
    layer: int
    largest: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> ParameterCounts:
        layers = layers_of(model)
        inside = dict.fromkeys(layers, 0)
        outside = largest = 0
        for name, parameter in model.named_parameters():
            layer = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
            if layer is None:
                outside += parameter.numel()
            else:
                inside[layer] += parameter.numel()
                largest = max(largest, parameter.numel())
        return cls(outside, max(inside.values(), default=0), largest)


def predict_memory(
    teachers: Sequence[PretrainedConfig], student: PretrainedConfig, inner: str, samples: int
) -> MemoryPrediction:
    """The memory of one fusion.

    Args:
        inner: map of units; "importance" and "slice" compare none.
        samples: for calibration.
    """
    sizes = [ParameterCounts.of(meta_model(config)) for config in teachers]
    made, anatomy = ParameterCounts.of(meta_model(student)), inspect_config(student)
    anatomies = [inspect_config(config) for config in teachers]
    base = PROCESS_BYTES + SINGLE_BYTES * made.outside
    joint = sum(each.residual.size for each in anatomies)
    classes = max(getattr(student, "vocab_size", 0) or 0, len(student.id2label or {}))
    pooled = 0 if inner in ("importance", "slice") else sum(map(widest_units, anatomies))
    width, units = anatomy.residual.size, widest_units(anatomy)
    layers = SINGLE_BYTES * (sum(size.layer for size in sizes) + made.layer)
    call = SINGLE_BYTES * CALL_TOKENS * 4 * max(map(widest_units, anatomies))
    moments = DOUBLE_BYTES * pooled * (UNIT_MATRICES * pooled + units + UNIT_CROSSES * width)
    transport = DOUBLE_BYTES * 3 * max(size.largest for size in sizes)
    ridge = DOUBLE_BYTES * (RIDGE_GRAMS * units**2 + RIDGE_CROSSES * units * width)
    head = DOUBLE_BYTES * (RIDGE_GRAMS * width**2 + RIDGE_CROSSES * width * classes)
    outside = SINGLE_BYTES * sum(size.outside for size in sizes)
    # A teacher runs up to its first layer with all that is outside of these, head included.
    first = SINGLE_BYTES * max(size.layer + size.outside for size in sizes) + call
    return MemoryPrediction(
        residual=round(base + max(first, DOUBLE_BYTES * RESIDUAL_MATRICES * joint**2)),
        layer=round(base + layers + max(call, moments, transport, ridge)),
        tail=round(base + outside + max(head, call, _descent(student, classes, width, samples))),
        # Of each teacher the stream before and after the layer, and four of its inputs and sums; of the student three
        # streams and the widest input.
        per_token=SINGLE_BYTES * (6 * joint + 3 * width + units),
    )


def _descent(student: PretrainedConfig, classes: int, width: int, samples: int) -> float:
    """Bytes of the head's fit to probabilities, which heads have that are small enough (`build.head`)."""
    answers = samples
    if find_task(student).by_token:
        answers *= getattr(student, "max_position_embeddings", None) or HEAD_ENTRIES
    tokens = min(answers, min(HEAD_ENTRIES, HEAD_WORK // width) // max(classes, 1))
    if tokens < TOKENS_PER_INPUT * width or getattr(student, "tie_word_embeddings", False):
        return 0.0
    change = SINGLE_BYTES * classes * (width + 1)
    return (2 * remembered_steps(change) + DESCENT_VECTORS) * change + SINGLE_BYTES * tokens * (classes + width)


def widest_units(anatomy: Anatomy) -> int:
    """Units of the widest hidden space."""
    hidden = [space.size for space in anatomy.spaces.values() if space.kind is Kind.HIDDEN]
    return max(hidden, default=anatomy.residual.size)

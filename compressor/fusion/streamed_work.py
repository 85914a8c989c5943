"""Predict the work of a fusion whose models are read layer by layer, from configs alone.

Counted are products of matrices; others cost little beside them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from compressor.anatomy import inspect_config
from compressor.fusion.calibration.sizes import REFIT_TOKENS, TOKENS_PER_FITTED_INPUT
from compressor.fusion.features.activations import UNIT_TOKENS
from compressor.fusion.maps.residual_statistics import RESIDUAL_TOKENS, TOKENS_PER_COORDINATE
from compressor.fusion.streamed_memory import ParameterCounts, widest_units
from compressor.models.meta import meta_model

#: An eigendecomposition's time, in products n³ of the same precision.
EIGEN_PRODUCTS = 20
#: Products n² m of a ridge regression that tries all λ, and runs of the student's layer.
RIDGE_PRODUCTS, STUDENT_RUNS = 12, 3
#: Size and repeats of the products that are timed.
TIMED_SIZE, TIMED_REPEATS = 512, 3


@dataclass(frozen=True)
class MachineRates:
    """Floating-point operations per second of products of matrices, with torch's threads.

    Of this thread's processor time, in which other threads do their shares: other work on the machine does not count.
    """

    single: float
    double: float

    @classmethod
    def measured(cls) -> MachineRates:
        """The best of a few products: a moment's work."""
        return cls(*(_rate(dtype) for dtype in (torch.float32, torch.float64)))


@dataclass(frozen=True)
class WorkPrediction:
    """Floating-point operations of a fusion.

    Attributes:
        per_token: single precision, of a token that the layers are fitted to.
        per_mapped_token: single precision, of a token that residual maps are made from.
        solves: double precision, whatever the tokens.
        most_tokens, most_mapped_tokens: more are not used.
        student_bytes: of its finished layers on disk.
    """

    per_token: float
    per_mapped_token: float
    solves: float
    most_tokens: int
    most_mapped_tokens: int
    student_bytes: int

    def tokens(self, given: int) -> int:
        """Tokens that the layers are fitted to, of so many."""
        return min(given, self.most_tokens)

    def seconds(self, given: int, rates: MachineRates) -> float:
        """Seconds of a fusion with so many calibration tokens, on a machine that does nothing else."""
        mapped = min(given, self.most_mapped_tokens)
        single = self.per_token * self.tokens(given) + self.per_mapped_token * mapped
        return single / rates.single + self.solves / rates.double


def predict_work(teachers: Sequence[PretrainedConfig], student: PretrainedConfig, inner: str) -> WorkPrediction:
    """The work of one fusion with calibration samples.

    Args:
        inner: map of units; "select" pursues them.
    """
    anatomies, anatomy = [inspect_config(config) for config in teachers], inspect_config(student)
    counts = [ParameterCounts.of(meta_model(config)) for config in teachers]
    made = ParameterCounts.of(meta_model(student))
    layers, width, units = len(anatomy.layers), anatomy.residual.size, widest_units(anatomy)
    joint, pooled = sum(each.residual.size for each in anatomies), sum(map(widest_units, anatomies))
    classes = max(getattr(student, "vocab_size", 0) or 0, len(student.id2label or {}))
    forwards = 2.0 * sum(count.layer * len(each.layers) for count, each in zip(counts, anatomies, strict=True))
    # A teacher's outputs are made in the student's coordinates too.
    transported = forwards * width / (joint / len(teachers))
    fitted = 2.0 * STUDENT_RUNS * made.layer * layers + layers * (units**2 + 2 * units * width + 4 * width**2)
    head = 2.0 * classes * (sum(each.residual.size for each in anatomies) + 2 * width)
    pursuit = 2.0 * pooled * units * (units + width) if inner == "select" else 0.0
    moments = UNIT_TOKENS * pooled**2 + pursuit
    ridge = (EIGEN_PRODUCTS + RIDGE_PRODUCTS) * (units**3 + 3 * width**3) + 2.0 * RIDGE_PRODUCTS * units**2 * width
    maps = 2.0 * sum(count.layer for count in counts) * width
    return WorkPrediction(
        per_token=forwards + transported + fitted + head,
        per_mapped_token=forwards + 2.0 * layers * joint**2,
        solves=layers * (moments + ridge + maps)
        + EIGEN_PRODUCTS * joint**3
        + 2.0 * RIDGE_PRODUCTS * width**2 * classes,
        most_tokens=max(REFIT_TOKENS, TOKENS_PER_FITTED_INPUT * max(units, width)),
        most_mapped_tokens=max(RESIDUAL_TOKENS, TOKENS_PER_COORDINATE * joint),
        student_bytes=4 * made.layer * layers,
    )


def _rate(dtype: torch.dtype) -> float:
    matrix = torch.ones(TIMED_SIZE, TIMED_SIZE, dtype=dtype)
    best = math.inf
    for _ in range(TIMED_REPEATS):
        start = time.thread_time()
        torch.mm(matrix, matrix)
        best = min(best, time.thread_time() - start)
    return 2 * TIMED_SIZE**3 / best

"""A linear map after a student's pooling, so that its embeddings have a teacher's width and coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.anatomy.hooks import logits_of
from compressor.errors import UserError
from compressor.fusion.build.ridge import fit_ridge
from compressor.fusion.calibration.batches import Batch, CalibrationSet
from compressor.fusion.calibration.statistics import Regression
from compressor.models.headless.sentence_modules import PROJECTION_FOLDER
from compressor.models.headless.sentence_pooling import (
    PROJECTION,
    SentenceProjection,
    pooling_of,
    projection_of,
    set_pooling,
)
from compressor.models.inputs import without_labels


def check_projection(teacher: nn.Module, *, keep_dim: bool, texts: bool) -> None:
    """Refuse before a fusion what `fit_projection` cannot do after it.

    Raises:
        UserError: the dimension is to be kept of no sentence-embedding model, or there are no texts to fit a map to.
    """
    config: Any = teacher.config
    if pooling_of(config) is None:
        if keep_dim:
            raise UserError(
                "keep_dim (--keep-dim) is about sentence-embedding models, folders with a modules.json: leave it out"
            )
    elif (keep_dim or projection_of(teacher) is not None) and not texts:
        raise UserError("a map to the teacher's embeddings (--keep-dim, Dense modules) is fitted to texts: give data")


@torch.no_grad()
def fit_projection(
    student: PreTrainedModel, teacher: nn.Module, calibration: CalibrationSet | None, *, keep_dim: bool
) -> dict[str, Any] | None:
    """Fit the map from the student's pooled states to a teacher's embeddings, by ridge regression.

    A student has one if it keeps the teacher's dimension, or if the teacher has a map of its own.

    Args:
        student: gets the map, or loses that of its teacher's config.
        calibration: held-out samples choose the ridge; checked by `check_projection`.

    Returns:
        Report on the fit, or None where there is no map.
    """
    pooling = pooling_of(student.config)
    if pooling is None:
        return None
    plain = replace(pooling, projection=None)
    set_pooling(student.config, plain)
    setattr(student, PROJECTION, None)
    if calibration is None or not (keep_dim or projection_of(teacher) is not None):
        return None
    # The norm comes after the map.
    set_pooling(student.config, replace(plain, normalise=False))
    train, held_out = (_sums(student, teacher, part) for part in (calibration.train, calibration.held_out))
    assert train is not None
    fit = fit_ridge(train, held_out, None, intercept=True)
    assert fit.bias is not None
    dtype = next(student.parameters()).dtype
    projection = SentenceProjection(fit.weight.T.to(dtype).contiguous(), fit.bias.to(dtype))
    set_pooling(student.config, replace(pooling, projection=PROJECTION_FOLDER))
    setattr(student, PROJECTION, projection)
    return {"dimension": len(projection.weight), "error": fit.error, "ridge": fit.ridge}


def refit_projection(student: PreTrainedModel, teacher: nn.Module, batches: Sequence[Batch], holdout: float) -> None:
    """Fit the map of a student that has one anew: training moves what it reads."""
    projection = projection_of(student)
    if projection is not None and batches:
        fit_projection(student, teacher, CalibrationSet.split(batches, holdout), keep_dim=True)


def _sums(student: nn.Module, teacher: nn.Module, batches: Sequence[Batch]) -> Regression | None:
    """Sums of pooled states and of the teacher's embeddings."""
    sums: Regression | None = None
    for batch in batches:
        inputs = without_labels(batch)
        pooled, target = logits_of(student, inputs).double(), logits_of(teacher, inputs).double()
        if sums is None:
            zeros: tuple[Tensor, Tensor] = (torch.zeros_like(pooled[0]), torch.zeros_like(target[0]))
            sums = Regression(pooled.shape[1], target.shape[1], zeros)
        sums.add(pooled, target)
    return sums

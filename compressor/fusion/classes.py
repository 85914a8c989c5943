"""Rows of a head for classes that its teacher was never trained on, fitted to calibration samples.

With labels, by likelihood.  Without, teachers teach each other: the mean of their logits, turned into an assignment of
samples to classes of equal shares by entropic transport, is what their new rows are fitted to, in turns: self-labelling
(Asano et al. 2020, https://arxiv.org/abs/1911.05371) of several views (Blum & Mitchell 1998).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.anatomy.hooks import logits_of
from compressor.ensemble.probabilities import mix_predictions
from compressor.errors import CouplingWarning
from compressor.models.inherited.class_heads import linear_head
from compressor.models.inputs import without_labels
from compressor.models.teacher import Teacher
from compressor.transport import solve

#: Turns of assignment and fit.
ROUNDS = 10
#: Penalty of squared weights, where inputs have the variance one.
PENALTY = 1e-3
#: Steps of L-BFGS in a turn.
STEPS = 60
#: Fewest samples a class to fit by; below, a class that a teacher lacks keeps the mean of its logits.
SAMPLES_PER_CLASS = 8
#: Nats of a class from which on it does not matter how unlikely it is.
UNLIKELY = 30.0


@dataclass(frozen=True, eq=False)
class _Head:
    """A teacher's head and what it reads.

    Attributes:
        inputs: [N, d] float64, centred if the head has a bias, of variance one.
        logits: of all classes [N, C] float64.
        lacking: numbers of the rows to fit.
    """

    module: nn.Linear
    inputs: Tensor
    mean: Tensor
    scale: Tensor
    logits: Tensor
    lacking: tuple[int, ...]

    def fit(self, targets: Tensor) -> _Head:
        """The same with rows of the least cross-entropy to targets [N, C]."""
        columns = [self.inputs] + ([torch.ones(len(self.inputs), 1).double()] if self.module.bias is not None else [])
        inputs, index = torch.cat(columns, 1), torch.tensor(self.lacking)
        rows = torch.zeros(inputs.shape[1], len(index), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([rows], max_iter=STEPS, line_search_fn="strong_wolfe")
        width = self.inputs.shape[1]

        def loss() -> Tensor:
            optimiser.zero_grad()
            logits = self.logits.index_copy(1, index, inputs @ rows)
            value = -(targets * logits.log_softmax(1)).sum(1).mean() + PENALTY * rows[:width].square().sum()
            value.backward()
            return value.detach()

        with torch.enable_grad():
            optimiser.step(loss)
        self._write(rows.detach())
        fitted = self.logits.index_copy(1, index, inputs @ rows.detach())
        return _Head(self.module, self.inputs, self.mean, self.scale, fitted, self.lacking)

    @torch.no_grad()
    def _write(self, rows: Tensor) -> None:
        index, weight = list(self.lacking), self.module.weight
        weights = rows[: self.inputs.shape[1]].T / self.scale
        weight[index] = weights.to(weight)
        if self.module.bias is not None:
            self.module.bias[index] = (rows[-1] - weights @ self.mean).to(weight)


@torch.no_grad()
def fit_lacking_classes(teachers: Sequence[Teacher], batches: Sequence[Mapping[str, Tensor]] | None) -> list[str]:
    """Fit the rows of classes that teachers lack, in place.

    Args:
        teachers: with common classes; see `compressor.models.inherited.class_heads.with_common_classes`.
        batches: model inputs, perhaps with "labels" [B]; None leaves the rows as they are.

    Returns:
        Lines on what was done; [] if no teacher lacks a class.
    """
    if not any(teacher.lacking for teacher in teachers):
        return []
    names = ", ".join(teacher.name for teacher in teachers if teacher.lacking)
    classes = len(teachers[0].spec.labels)
    labels = _labels(batches or ())
    samples = sum(len(next(iter(batch.values()))) for batch in batches or ())
    known = samples if labels is None else int((labels >= 0).sum())
    if batches is None or known < SAMPLES_PER_CLASS * classes:
        return [
            f"the classes that a teacher lacks ({names}) have the mean of its logits: {known} samples are too few to "
            f"fit rows of {classes} classes (--samples {SAMPLES_PER_CLASS * classes} at least)"
        ]
    heads = [_head_of(teacher, batches) for teacher in teachers]
    if labels is not None:
        rows = labels >= 0
        targets = torch.nn.functional.one_hot(labels.clamp(min=0), classes).double() * rows[:, None]
        for head in heads:
            if head.lacking:
                head.fit(targets)
        return [f"the head's rows of classes that a teacher lacks ({names}) were fitted to {known} labels"]
    for _ in range(ROUNDS):
        targets = _assigned([head.logits for head in heads])
        heads = [head.fit(targets) if head.lacking else head for head in heads]
    return [
        f"the head's rows of classes that a teacher lacks ({names}) were fitted to what the teachers say together of "
        f"{samples} unlabelled samples, all classes being taken as equally frequent; labels need no such guess"
    ]


def _assigned(logits: Sequence[Tensor]) -> Tensor:
    """Soft classes [N, C] by the product of the teachers' probabilities, all classes being equally frequent."""
    rows = [each.log_softmax(1) for each in logits]
    product = (len(rows) * mix_predictions(rows, [1.0] * len(rows), math.inf)).log_softmax(1)
    with warnings.catch_warnings():
        # An assignment in which classes are not quite equally frequent serves as well.
        warnings.simplefilter("ignore", CouplingWarning)
        plan = solve("sinkhorn", -product.clamp(min=-UNLIKELY), epsilon=1.0, scale=1.0, space="classes").plan
    return plan / plan.sum(1, keepdim=True)


def _labels(batches: Sequence[Mapping[str, Tensor]]) -> Tensor | None:
    if not batches or any("labels" not in batch for batch in batches):
        return None
    labels = torch.cat([batch["labels"].cpu() for batch in batches])
    return labels if bool((labels >= 0).any()) else None


def _head_of(teacher: Teacher, batches: Sequence[Mapping[str, Tensor]]) -> _Head:
    """Run a teacher without its head, so that it answers what its head would read."""
    path, module = linear_head(teacher.model)
    parent, _, name = path.rpartition(".")
    owner = teacher.model.get_submodule(parent)
    setattr(owner, name, nn.Identity())
    try:
        inputs = torch.cat([logits_of(teacher.model, without_labels(batch)).double().cpu() for batch in batches])
    finally:
        setattr(owner, name, module)
    bias = module.bias is not None
    logits = inputs @ module.weight.double().cpu().T + (module.bias.double().cpu() if bias else 0.0)
    mean = inputs.mean(0) if bias else torch.zeros(inputs.shape[1]).double()
    scale = (inputs - mean).square().mean().sqrt().clamp(min=1e-12)
    return _Head(module, (inputs - mean) / scale, mean, scale, logits, teacher.lacking)

"""Layer-wise reconstruction: fit a whole layer to the residual stream after it.

Descent finds better units and heads than a linear refit (as BRECQ: Li et al., ICLR 2021, arXiv 2102.05426).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import Batch, CalibrationSet
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.features.activations import ActivationFeatures
from compressor.fusion.plan import JoiningStage

#: Tokens per step, and the least number of different steps: fewer do not generalise.
STEP_TOKENS, LEAST_STEPS = 2048, 3
#: Samples per step whose number of tokens is unknown.
SAMPLES_PER_STEP = 16
#: Steps between evaluations on the held-out samples.
EVALUATION_STEPS = 50
#: Learning rates per root mean square of a parameter; each is tried if the one before gains nothing at once.
LEARNING_RATES = (0.05, 0.01, 0.002)
#: Share of the target's energy below which there is nothing to gain.
EXACT_RECONSTRUCTION = 1e-6


def samples_per_step(batch: Batch) -> int:
    """Samples of one step."""
    tokens = max((x.shape[1] for x in batch.values() if x.dim() == 2 and not x.is_floating_point()), default=0)
    return max(1, STEP_TOKENS // tokens) if tokens else SAMPLES_PER_STEP


class DescentTarget(Protocol):
    """What a descent makes smaller."""

    def error(self, batches: Sequence[int]) -> Tensor:
        """The mean error over some batches, with gradients."""
        ...


def least_tokens() -> int:
    """The fewest tokens to learn from."""
    return LEAST_STEPS * STEP_TOKENS


@dataclass(frozen=True, eq=False)
class ReconstructionTarget:
    """A layer's target: the stream where its last branch joins.

    Attributes:
        output: a batch's stream [T, m], with gradients.
        targets: transported streams [T, m].
        energy: target variance per token.
    """

    output: Callable[[int], Tensor]
    targets: Sequence[Tensor]
    energy: float

    def error(self, batches: Sequence[int]) -> Tensor:
        """Relative squared error."""
        squares = [(self.output(index) - self.targets[index]).square().sum() for index in batches]
        return torch.stack(squares).sum() / (self.energy * sum(len(self.targets[index]) for index in batches))


def reconstruct_layer(
    student: StudentBuilder,
    layer: str,
    stage: JoiningStage,
    features: ActivationFeatures,
    runner: LayerwiseRunner,
    calibration: CalibrationSet,
) -> bool:
    """Fit a layer to the stream after it, if held-out samples gain.

    Args:
        stage: the last that joins the stream.
        runner: before the layer.
        calibration: a batch per step (`samples_per_step`).

    Returns:
        Whether anything changed.
    """
    masks = features.masks
    indices: dict[bool, list[int]] = {False: [], True: []}
    for index in range(len(masks)):
        indices[calibration.is_held_out(index, masks.runs)].append(index)
    train, held_out = indices[False], indices[True]
    target = _target_of(layer, stage, features, runner, train)
    tokens = sum(len(target.targets[index]) for index in train)
    if tokens < least_tokens() or not held_out:
        student.report.not_reconstructed = f"{tokens:,} tokens are too few to learn from: it takes {least_tokens():,}"
        return False
    module = student.model.get_submodule(layer)
    steps = [[index] for index in train]
    before, after = descend(
        parameter_scales(module.modules()), target, steps, held_out, student.options.reconstruction_steps
    )
    if after < before:
        student.report.reconstructed.append({"module": layer, "before": before, "after": after})
    return after < before


def _target_of(
    layer: str, stage: JoiningStage, features: ActivationFeatures, runner: LayerwiseRunner, train: Sequence[int]
) -> ReconstructionTarget:
    tap, masks = stage.tap, features.masks
    assert tap is not None
    targets = [features.transported(index, tap, stage.stream_key) for index in range(len(masks))]
    known = [targets[index] for index in train]
    count = sum(map(len, known))
    mean = torch.stack([rows.sum(0) for rows in known]).sum(0) / count
    energy = max(sum(float((rows - mean).square().sum()) for rows in known) / count, 1e-30)

    def output(index: int) -> Tensor:
        return token_rows(runner.tap_value(layer, index, tap), masks.of(index, tap[0]))

    return ReconstructionTarget(output, targets, energy)


def descend(
    scales: Mapping[nn.Parameter, float],
    target: DescentTarget,
    train: Sequence[Sequence[int]],
    held_out: Sequence[int],
    steps: int,
) -> tuple[float, float]:
    """Set parameters to those of the least held-out error; held-out errors before and after.

    Args:
        scales: the parameters (`parameter_scales`).
        train: the batches of each step; steps begin anew after the last.
    """
    with torch.no_grad():
        before = float(target.error(held_out))
    if not before > EXACT_RECONSTRUCTION:
        return before, before
    after = before
    for rate in LEARNING_RATES:
        after, failed = _descend_at(rate, scales, target, train, held_out, steps, before)
        if not failed:
            break
    return before, after


def _descend_at(
    rate: float,
    scales: Mapping[nn.Parameter, float],
    target: DescentTarget,
    train: Sequence[Sequence[int]],
    held_out: Sequence[int],
    steps: int,
    before: float,
) -> tuple[float, bool]:
    """The least held-out error, and whether it stalled at once."""
    best, failed = before, False
    with _trainable(list(scales)) as (parameters, masters):
        best_values = [master.clone() for master in masters]
        optimiser = torch.optim.Adam(
            [{"params": [m], "lr": rate * scales[p]} for p, m in zip(parameters, masters, strict=True)]
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for number in range(steps):
            with torch.enable_grad():
                loss = target.error(train[number % len(train)])
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for master, gradient in zip(masters, gradients, strict=True):
                master.grad = None if gradient is None else gradient.to(master.dtype)
            optimiser.step()
            schedule.step()
            _copy(masters, parameters)
            if (number + 1) % EVALUATION_STEPS == 0 or number + 1 == steps:
                with torch.no_grad():
                    error = float(target.error(held_out))
                if error < best:
                    best, best_values = error, [master.clone() for master in masters]
                elif number < EVALUATION_STEPS:
                    failed = True
                    break
        _copy(best_values, parameters)
    return best, failed


@contextmanager
def _trainable(parameters: Sequence[nn.Parameter]) -> Iterator[tuple[Sequence[nn.Parameter], list[Tensor]]]:
    """Parameters, and copies precise enough for small steps."""
    required = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield parameters, [p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in parameters]
    finally:
        for p, before in zip(parameters, required, strict=True):
            p.requires_grad_(before)


def parameter_scales(modules: Iterable[nn.Module]) -> dict[nn.Parameter, float]:
    """Root mean squares of the modules' own parameters; vectors take their module's largest."""
    scales: dict[nn.Parameter, float] = {}
    for part in modules:
        sizes = {p: float(p.detach().float().square().mean().sqrt()) for p in part.parameters(recurse=False)}
        largest = max(sizes.values(), default=0.0)
        scales |= {p: size if p.dim() > 1 else largest for p, size in sizes.items()}
    return scales


@torch.no_grad()
def _copy(values: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)

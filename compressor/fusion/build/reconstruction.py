"""The polish: a layer fitted as a whole to the residual stream that should leave it.

A linear refit makes each of the student's units and heads the copy of one that a teacher has, and fits one module at a
time.  Where a narrow stream does not carry what such a unit reads, or where fewer must do the work of all, others would
serve better; which ones is a least-squares problem that is not linear any more.  It is solved from the linear refit on
by descent on one layer alone: without labels, and without a gradient that passes from one layer to another
(layer-wise reconstruction, as BRECQ, Li et al., ICLR 2021, arXiv 2102.05426, does it for quantised weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.anatomy import Norm
from compressor.anatomy.queries import stream_tap
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import Batch, sorted_by_key
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.features.activations import ActivationFeatures
from compressor.fusion.plan import FitStage

#: Tokens of one step of the descent, and how many such steps must be different: fewer tokens say little of others.
TOKENS, FEWEST = 2048, 3
#: Samples of a step whose inputs do not tell how many tokens they make.
SAMPLES_PER_STEP = 16
#: Steps between looks at the held-out samples.
FIRST_LOOK = 50
#: Learning rates in units of a parameter's root mean square: one that has gained nothing by the first look makes way.
LEARNING_RATES = (0.05, 0.01, 0.002)
#: Share of the target's energy below which there is nothing to gain.
EXACT_RECONSTRUCTION = 1e-6


def reconstruction_batches(batches: Sequence[Batch], held_out: int) -> tuple[list[Batch], int]:
    """Calibration batches of which each serves one step, and how many of the last ones are held out.

    The samples come in the order of their keys, so that the same samples make the same steps.
    """
    begin = len(batches) - held_out
    train, held = sorted_by_key(batches[:begin], _samples), sorted_by_key(batches[begin:], _samples)
    return [*train, *held], len(held)


def _samples(batch: Batch) -> int:
    """How many samples like these are one step."""
    tokens = max((x.shape[1] for x in batch.values() if x.dim() == 2 and not x.is_floating_point()), default=0)
    return max(1, TOKENS // tokens) if tokens else SAMPLES_PER_STEP


@dataclass(frozen=True, eq=False)
class ReconstructionTarget:
    """What a layer's residual stream lacks at its last checkpoint, batch by batch.

    Attributes:
        shown: the student's stream of a batch [T, m]; gradients pass through the layer alone.
        wanted: what it should be [T, m], one tensor a batch.
        energy: of what is wanted about its mean, per token.
    """

    shown: Callable[[int], Tensor]
    wanted: Sequence[Tensor]
    energy: float

    def of(self, batches: Sequence[int]) -> Tensor:
        """The squared error over some batches as a share of the energy."""
        missed = torch.stack([(self.shown(index) - self.wanted[index]).square().sum() for index in batches]).sum()
        return missed / (self.energy * sum(len(self.wanted[index]) for index in batches))


def reconstruct_layer(
    student: StudentBuilder, layer: str, last: FitStage, features: ActivationFeatures, walker: LayerwiseRunner
) -> bool:
    """Fit all of a layer together to the stream behind it, if held-out samples gain by it.

    Args:
        student: the layer has been refitted; what is done is noted with it.
        layer: path of the layer.
        last: what meets the residual stream last in it.
        features: what the teachers showed, transported.
        walker: of the student, in front of the layer; its batches serve one step each (`reconstruction_batches`).

    Returns:
        Whether anything changed.
    """
    train, held_out, lack = _lack(student, layer, last, features, walker)
    tokens = sum(len(lack.wanted[index]) for index in train)
    if tokens < FEWEST * TOKENS or not held_out:
        student.unpolished = f"{tokens:,} tokens are too few to learn from: it takes {FEWEST * TOKENS:,}"
        return False
    module = student.model.get_submodule(layer)
    before, after = _descend(module, lack, train, held_out, student.options.polish)
    if after < before:
        student.polished.append({"module": layer, "before": before, "after": after})
    return after < before


def _lack(
    student: StudentBuilder, layer: str, last: FitStage, features: ActivationFeatures, walker: LayerwiseRunner
) -> tuple[list[int], list[int], ReconstructionTarget]:
    """The batches to learn from, those held out, and what the stream lacks in each."""
    first = last[0]
    behind = stream_tap(first)
    assert behind is not None
    masks, key = features.masks, first.joins or (first.space if isinstance(first, Norm) else first.writes)
    begin = len(masks) - student.options.held_out * masks.runs
    wanted = [features.transported(index, behind, key) for index in range(len(masks))]
    known = wanted[:begin]
    count = sum(map(len, known))
    mean = torch.stack([one.sum(0) for one in known]).sum(0) / count
    energy = max(sum(float((one - mean).square().sum()) for one in known) / count, 1e-30)

    def shown(index: int) -> Tensor:
        return token_rows(walker.look(layer, index, behind), masks.of(index, behind[0]))

    return list(range(begin)), list(range(begin, len(masks))), ReconstructionTarget(shown, wanted, energy)


def _descend(
    module: nn.Module, lack: ReconstructionTarget, train: Sequence[int], held_out: Sequence[int], steps: int
) -> tuple[float, float]:
    """Held-out error before and after; the module keeps the best of what was looked at."""
    with torch.no_grad():
        before = float(lack.of(held_out))
    if not before > EXACT_RECONSTRUCTION:
        return before, before
    after = before
    for rate in LEARNING_RATES:
        after, lost = _at(rate, module, lack, train, held_out, steps, before)
        if not lost:
            break
    return before, after


def _at(
    rate: float,
    module: nn.Module,
    lack: ReconstructionTarget,
    train: Sequence[int],
    held_out: Sequence[int],
    steps: int,
    before: float,
) -> tuple[float, bool]:
    """The descent at one rate: the least held-out error, and whether it was given up at the first look."""
    best, lost = before, False
    with _masters(module) as (parameters, masters):
        kept = [master.clone() for master in masters]
        sizes = _sizes(module)
        optimiser = torch.optim.Adam(
            [{"params": [one], "lr": rate * sizes[p]} for p, one in zip(parameters, masters, strict=True)]
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for number in range(steps):
            with torch.enable_grad():
                gradients = torch.autograd.grad(lack.of([train[number % len(train)]]), parameters, allow_unused=True)
            for master, gradient in zip(masters, gradients, strict=True):
                master.grad = None if gradient is None else gradient.to(master.dtype)
            optimiser.step()
            schedule.step()
            _set(parameters, masters)
            if (number + 1) % FIRST_LOOK == 0 or number + 1 == steps:
                with torch.no_grad():
                    now = float(lack.of(held_out))
                if now < best:
                    best, kept = now, [master.clone() for master in masters]
                elif number < FIRST_LOOK:
                    lost = True
                    break
        _set(parameters, kept)
    return best, lost


@contextmanager
def _masters(module: nn.Module) -> Iterator[tuple[list[nn.Parameter], list[Tensor]]]:
    """A module's parameters, ready for gradients, and copies of them that small steps are not lost in."""
    parameters = list(module.parameters())
    asked = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield parameters, [p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in parameters]
    finally:
        for p, before in zip(parameters, asked, strict=True):
            p.requires_grad_(before)


def _sizes(module: nn.Module) -> Mapping[nn.Parameter, float]:
    """Root mean square of every parameter; of a bias that of the weight beside it, since at rest it has none."""
    found: dict[nn.Parameter, float] = {}
    for part in module.modules():
        own = {p: float(p.detach().float().square().mean().sqrt()) for p in part.parameters(recurse=False)}
        largest = max(own.values(), default=0.0)
        found |= {p: size if p.dim() > 1 else largest for p, size in own.items()}
    return found


@torch.no_grad()
def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)

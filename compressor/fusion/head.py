"""The head, fitted last to what the ensemble says: multinomial logistic regression, a convex problem of one matrix.

Least squares on mean logits counts every class alike, however unlikely; of a large vocabulary most of the fit then goes
to tokens that nobody expects.  What is wanted is little KL(ensemble || student), and for given features that is convex
in the head: it starts from the least-squares fit and ends where held-out samples gain no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from compressor.anatomy import Norm, Step
from compressor.fusion.low_rank import roots
from compressor.fusion.masks import Masks
from compressor.fusion.outline import Outline
from compressor.fusion.samples import thinned
from compressor.fusion.sources import reads_first
from compressor.fusion.statistics import rows
from compressor.fusion.structure import write_axis
from compressor.fusion.student import Student
from compressor.fusion.walk import Spot, Visitor

#: Tokens times classes from which a head is fitted, about; more take memory and change little.
ENTRIES = 1 << 24
#: Tokens for each of a head's inputs below which it keeps its least squares: of a large vocabulary few tokens are
#: taken, and a fit to fewer of them than it has inputs says little of others.
FEWEST = 2
#: Steps of L-BFGS between looks at the held-out samples, the most looks, and the gain that is worth another.
STEPS, LOOKS, WORTHWHILE = 4, 8, 5e-3
#: Held-out KL below which there is nothing to gain.
EXACT = 1e-6
#: Noise in the inputs that a head should bear, as a share of their mean square: of inputs that nearly depend on each
#: other a fit would otherwise live on the last digits, which float16 and int8 have not.
NOISE = 1e-3
#: Added to the variance of a class, so that one that is never expected does not take endless steps.
RARE = 1e-3
#: Logits that differ from the head's outputs by more than this share are not those outputs, scaled.
UNSCALED = 1e-5

#: Runs what lies behind the layers of the student, and returns the logits of every batch.
Finish = Callable[[Sequence[Spot], Visitor], Sequence[Tensor]]


class Head(Protocol):
    """A head with numbers that may be changed."""

    def start(self) -> Tensor:
        """No change."""
        ...

    def logits(self, change: Tensor, inputs: Tensor) -> Tensor:
        """Its outputs [T, classes] for inputs [T, n]."""
        ...

    def cost(self, change: Tensor) -> Tensor:
        """About how much KL noise in the inputs adds by the change, if logits are the outputs."""
        ...

    def set(self, change: Tensor) -> None:
        """Change the student's parameters for good."""
        ...


@dataclass(frozen=True, eq=False)
class Free:
    """A linear head of its own, in coordinates in which its inputs are white and its classes vary alike.

    Attributes:
        weight, bias: of the student's module, [classes, n] (or [n, classes]) and [classes].
        root: the inverse root of the second moments of its inputs, with noise and a one behind them [n + 1, n + 1].
        scale: what a step in every class is divided by [classes].
        noise: what the square of a weight of every class costs [classes].
        transposed: whether the weight is [n, classes].
    """

    weight: Tensor
    bias: Tensor | None
    root: Tensor
    scale: Tensor
    noise: Tensor
    transposed: bool

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, inputs: Tensor, wanted: Tensor, *, transposed: bool) -> Free:
        augmented = _with_one(inputs, bias)
        moments = (augmented.T @ augmented).double() / len(augmented)
        noise = NOISE * float(inputs.square().mean())
        moments.diagonal()[: inputs.shape[1]] += noise
        share = wanted.mean(0)
        varies = share * (1 - share)
        scale = (varies + RARE).sqrt()
        return cls(weight, bias, roots(moments)[1].to(inputs), scale.to(inputs), noise * varies.to(inputs), transposed)

    def start(self) -> Tensor:
        return torch.zeros(len(self.scale), len(self.root), dtype=self.root.dtype)

    def logits(self, change: Tensor, inputs: Tensor) -> Tensor:
        own = self.weight if self.transposed else self.weight.T
        moved = inputs @ own + _with_one(inputs, self.bias) @ self._moved(change).T
        return moved if self.bias is None else moved + self.bias

    def set(self, change: Tensor) -> None:
        moved = self._moved(change)
        if self.bias is not None:
            self.bias.add_(moved[:, -1])
            moved = moved[:, :-1]
        self.weight.add_(moved.T if self.transposed else moved)

    def cost(self, change: Tensor) -> Tensor:
        moved = self._moved(change)
        weights = moved if self.bias is None else moved[:, :-1]
        return (self.noise * weights.square().sum(1)).sum() / 2

    def _moved(self, change: Tensor) -> Tensor:
        return (change / self.scale[:, None]) @ self.root


@dataclass(frozen=True, eq=False)
class Tied:
    """A head that shares its weight with the embedding: the scale and shift of the norm in front of it are fitted.

    Attributes:
        table: the shared weight [classes, n].
        offset: the head's bias [classes]; None without one.
        weight, bias: of the norm [n].
        rest: the value of the norm's weight that scales by one.
    """

    table: Tensor
    offset: Tensor | None
    weight: Tensor
    bias: Tensor | None
    rest: float

    def start(self) -> Tensor:
        return torch.zeros(1 if self.bias is None else 2, len(self.weight), dtype=self.weight.dtype)

    def logits(self, change: Tensor, inputs: Tensor) -> Tensor:
        read = inputs * (1 + change[0])
        if self.bias is not None:
            read = read + change[1]
        found = read @ self.table.T
        return found if self.offset is None else found + self.offset

    def cost(self, change: Tensor) -> Tensor:
        # A scale for every coordinate makes no large weights of small ones.
        return change.new_zeros(())

    def set(self, change: Tensor) -> None:
        self.weight.copy_((1 + change[0]) * (self.weight + 1 - self.rest) + self.rest - 1)
        if self.bias is not None:
            self.bias.copy_((1 + change[0]) * self.bias + change[1])


def _with_one(inputs: Tensor, bias: Tensor | None) -> Tensor:
    return inputs if bias is None else torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a head reads, and what the ensemble says there: [T, n] and [T, classes], those held out apart."""

    inputs: Tensor
    wanted: Tensor
    held_inputs: Tensor
    held_wanted: Tensor


def refit_head(student: Student, said: Sequence[Sequence[Tensor]], masks: Masks, finish: Finish) -> None:
    """Fit the head of a student that is built otherwise, if held-out samples gain by it.

    Args:
        student: with a head whose logits are its outputs, scaled at most; it is left alone otherwise.
        said: per teacher, the logits of every batch.
        masks: which tokens of each batch count.
        finish: runs what lies behind the student's layers.
    """
    found = _head_of(student)
    held_out_from = len(masks) - student.options.held_out
    if found is None or not student.options.held_out:
        return
    module, norm, step = found
    entries, classes = sum(one.numel() for one in said[0]), said[0][0].shape[-1]
    reads = student.parameters[step.weight].numel() / classes
    if classes < 2 or min(entries, ENTRIES) / classes < FEWEST * reads:
        return
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def visit(index: int, seen: dict[Spot, Tensor]) -> None:
        inputs.append(seen[module, "in"])
        if not index:
            outputs.append(seen[module, "out"])

    own = finish([(module, "in"), (module, "out")], visit)
    scale = _scale(outputs[0], own[0])
    if scale is None:
        return
    shares = [source.weight for source in student.sources]
    stride = max(1, math.ceil(entries / ENTRIES))
    answers = _answers(inputs, said, shares, masks, module, stride, held_out_from)
    head = _made(student, norm, step, answers)
    before, after, change = _fitted(head, answers, scale)
    if after < before:
        head.set(change)
        student.head = {"module": module, "least_squares_kl": before, "kl": after}


def _head_of(student: Student) -> tuple[str, Norm | None, Step] | None:
    """The only module that puts out logits, the norm in front of it where it is tied, and its step."""
    outline = Outline(student.anatomy)
    free = [
        item
        for item in outline.tail
        if isinstance(item, Step) and not item.tied and write_axis(student.anatomy, item).fixed
    ]
    tied = outline.before_tied
    if student.anatomy.output is not None or len(free) + len(tied) != 1:
        return None
    norm, step = tied[0] if tied else (None, free[0])
    # The last layer's own norm would have to run again, which only what lies behind the layers does.
    inside = norm is not None and norm.module.startswith(tuple(f"{layer}." for layer in student.anatomy.layers))
    return None if inside else (step.module, norm, step)


def _made(student: Student, norm: Norm | None, step: Step, answers: Answers) -> Head:
    parameters = student.parameters
    weight, offset = parameters[step.weight].detach(), parameters.get(f"{step.module}.bias")
    bias = None if offset is None else offset.detach()
    if norm is None:
        transposed = reads_first(student.anatomy, step)
        return Free.of(weight, bias, answers.inputs, answers.wanted, transposed=transposed)
    shift = parameters.get(f"{norm.module}.bias")
    own = parameters[f"{norm.module}.weight"].detach()
    return Tied(weight, bias, own, None if shift is None else shift.detach(), norm.rest)


def _scale(outputs: Tensor, logits: Tensor) -> float | None:
    """How many times the head's outputs the logits are; None if they are no multiple of them."""
    if outputs.shape != logits.shape:
        return None
    scale = float((outputs * logits).sum() / outputs.square().sum().clamp(min=1e-30))
    missed = (logits - scale * outputs).norm() / logits.norm().clamp(min=1e-30)
    return scale if float(missed) < UNSCALED else None


def _answers(
    inputs: Sequence[Tensor],
    said: Sequence[Sequence[Tensor]],
    shares: Sequence[float],
    masks: Masks,
    module: str,
    stride: int,
    held_out_from: int,
) -> Answers:
    """Every `stride`-th token, by the hash of what it belongs to."""
    parts: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    for index, read in enumerate(inputs):
        mask, keys = masks.of(index, module), masks.keys(index)
        probabilities = [share * rows(one[index], mask).softmax(-1) for share, one in zip(shares, said, strict=True)]
        pair = rows(read, mask), sum(probabilities[1:], start=probabilities[0])
        if stride > 1:
            shape = tuple(mask.shape) if mask is not None else (len(keys), len(pair[0]) // len(keys))
            kept = thinned(keys, (shape[0], shape[1]), mask, stride)
            pair = pair[0][kept], pair[1][kept]
        parts[index >= held_out_from].append(pair)
    joined = [torch.cat(side) for held in (False, True) for side in zip(*parts[held], strict=True)]
    return Answers(*joined)


def _fitted(head: Head, answers: Answers, scale: float) -> tuple[float, float, Tensor]:
    """Held-out KL before and after, and the change that made it."""

    def divergence(change: Tensor) -> float:
        own = (scale * head.logits(change, answers.held_inputs)).log_softmax(-1)
        wanted = answers.held_wanted
        return float((wanted * (wanted.clamp(min=1e-30).log() - own)).sum(-1).mean())

    change = head.start()
    before = best = divergence(change)
    kept = change.clone()
    if not before > EXACT:
        return before, before, kept
    with torch.enable_grad():
        change.requires_grad_(True)
        optimiser = torch.optim.LBFGS([change], max_iter=STEPS, history_size=12, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = cross_entropy(scale * head.logits(change, answers.inputs), answers.wanted)
            value = value + scale**2 * head.cost(change)
            value.backward()
            return value

        for _ in range(LOOKS):
            optimiser.step(loss)
            with torch.no_grad():
                now = divergence(change)
            if not now < best:
                break
            gained, best, kept = (best - now) / best, now, change.detach().clone()
            if gained < WORTHWHILE:
                break
    return before, best, kept

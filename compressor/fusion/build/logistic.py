"""Multinomial logistic regression of a head on what the ensemble says: a convex problem of one matrix.

The loss is summed over heaps of tokens, so that it takes little memory beside the answers themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from compressor.fusion.maps.attention.low_rank import roots

#: Tokens times classes that are looked at together.
CHUNK_ENTRIES = 1 << 22
#: Steps of L-BFGS between looks at the held-out samples, the most looks, and the gain that is worth another.
STEPS, LOOKS, WORTHWHILE = 4, 8, 5e-3
#: Held-out KL below which there is nothing to gain.
NEWTON_TOLERANCE = 1e-6
#: Noise in the inputs that a head should bear, as a share of their mean square: of inputs that nearly depend on each
#: other a fit would otherwise live on the last digits, which float16 and int8 have not.
NOISE = 1e-3
#: Added to the variance of a class, so that one that is never expected does not take endless steps.
RARE = 1e-3


@dataclass(frozen=True, eq=False)
class HeadData:
    """What a head reads, and what the ensemble says there: [T, n] and [T, classes]."""

    inputs: Tensor
    wanted: Tensor

    def heaps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Both, of so many tokens at a time that their logits take little memory."""
        size = max(1, CHUNK_ENTRIES // self.wanted.shape[1])
        yield from zip(self.inputs.split(size), self.wanted.split(size), strict=True)


class FittedHead(Protocol):
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
class FreeHead:
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
    def of(cls, weight: Tensor, bias: Tensor | None, inputs: Tensor, wanted: Tensor, *, transposed: bool) -> FreeHead:
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
        own, moved = self.weight if self.transposed else self.weight.T, self._moved(change)
        if self.bias is None:
            return inputs @ (own + moved.T)
        return inputs @ (own + moved[:, :-1].T) + self.bias + moved[:, -1]

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
class TiedHead:
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


def fit_logistic(head: FittedHead, answers: HeadData, held_out: HeadData, scale: float) -> tuple[float, float, Tensor]:
    """The change of a head that brings it nearest to the ensemble, as held-out tokens say.

    Args:
        head: as least squares left it.
        answers: what it is fitted to.
        held_out: what says when to stop.
        scale: how many times the head's outputs the logits are.

    Returns:
        KL(ensemble || student) of held-out tokens before and after, in nats, and the change that made it.
    """
    change = head.start()
    before = best = _divergence(head, change, held_out, scale)
    kept = change.clone()
    if not before > NEWTON_TOLERANCE:
        return before, before, kept
    with torch.enable_grad():
        change.requires_grad_(True)
        optimiser = torch.optim.LBFGS([change], max_iter=STEPS, history_size=12, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = scale**2 * head.cost(change)
            if value.requires_grad:
                value.backward()
            total = value.detach()
            for inputs, wanted in answers.heaps():
                value = cross_entropy(scale * head.logits(change, inputs), wanted, reduction="sum")
                value = value / len(answers.inputs)
                value.backward()
                total = total + value.detach()
            return total

        for _ in range(LOOKS):
            optimiser.step(loss)
            now = _divergence(head, change.detach(), held_out, scale)
            if not now < best:
                break
            gained, best, kept = (best - now) / best, now, change.detach().clone()
            if gained < WORTHWHILE:
                break
    return before, best, kept


@torch.no_grad()
def _divergence(head: FittedHead, change: Tensor, held_out: HeadData, scale: float) -> float:
    total = 0.0
    for inputs, wanted in held_out.heaps():
        own = (scale * head.logits(change, inputs)).log_softmax(-1)
        total += float((wanted * (wanted.clamp(min=1e-30).log() - own)).sum())
    return total / len(held_out.inputs)

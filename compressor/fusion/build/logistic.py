"""Logistic regression of a head on ensemble probabilities: of classes (multinomial), or of each label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from compressor.ensemble.probabilities import kl_terms
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.maps.attention.low_rank import roots

#: Tokens times classes of one chunk.
CHUNK_ENTRIES = 1 << 22
#: L-BFGS steps between held-out evaluations, the most evaluations, and the gain worth another.
LBFGS_STEPS, EVALUATIONS, LEAST_GAIN = 4, 8, 5e-3
#: Steps that L-BFGS remembers: fewer of a large head, whose steps would take more bytes.
HISTORY, HISTORY_BYTES = 12, 1 << 29
#: Held-out KL below which there is nothing to gain.
NEWTON_TOLERANCE = 1e-6
#: Input noise that a head should tolerate, as a share of the mean square: a fit to nearly dependent inputs would
#: otherwise rely on digits that float16 and int8 do not have.
INPUT_NOISE = 1e-3
#: Added to a class's variance, so that an unexpected class takes no endless steps.
CLASS_VARIANCE_FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class HeadData:
    """Head inputs [T, n] and ensemble probabilities [T, classes], which sum to 1 unless they are `labels`'."""

    inputs: Tensor
    targets: Tensor
    labels: bool = False

    @classmethod
    def joined(cls, parts: Sequence[tuple[Tensor, Tensor]]) -> HeadData:
        """Of inputs and probabilities in parts."""
        inputs, targets = zip(*parts, strict=True)
        return cls(torch.cat(inputs), torch.cat(targets))

    def first(self, count: int) -> HeadData:
        """The first tokens."""
        return HeadData(self.inputs[:count], self.targets[:count], self.labels)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Both, in chunks that save memory."""
        size = max(1, CHUNK_ENTRIES // self.targets.shape[1])
        yield from zip(self.inputs.split(size), self.targets.split(size), strict=True)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, a sum over tokens."""
        if self.labels:
            return binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return cross_entropy(logits, targets, reduction="sum")

    def kl(self, logits: Tensor, targets: Tensor) -> Tensor:
        """KL(ensemble ‖ student) in nats, a sum over tokens."""
        if self.labels:
            return (kl_terms(targets, logsigmoid(logits)) + kl_terms(1 - targets, logsigmoid(-logits))).sum()
        return kl_terms(targets, logits.log_softmax(-1)).sum()


class FittedHead(Protocol):
    """A head to fit."""

    def start(self) -> Tensor:
        """The zero change."""
        ...

    def logits(self, change: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [T, classes] for inputs [T, n] after a change."""
        ...

    def cost(self, change: Tensor) -> Tensor:
        """About the KL that input noise adds."""
        ...

    def set(self, change: Tensor) -> None:
        """Apply a change to the student."""
        ...


@dataclass(frozen=True, eq=False)
class FreeHead:
    """A linear head of its own, fitted in white coordinates.

    Attributes:
        weight, bias: [classes, n] (or transposed), [classes].
        root: inverse root of noisy second moments [n + 1, n + 1].
        scale: divides steps [classes].
        noise: cost of squared weights [classes].
    """

    weight: Tensor
    bias: Tensor | None
    root: Tensor
    scale: Tensor
    noise: Tensor
    transposed: bool

    @classmethod
    def of(
        cls, weight: Tensor, bias: Tensor | None, data: HeadData, processes: Processes, *, transposed: bool
    ) -> FreeHead:
        """Of a weight and the tokens of all processes."""
        inputs = data.inputs
        augmented = inputs if bias is None else torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        moments = (augmented.T @ augmented).cpu().double()
        processes.add_up(moments)
        moments /= processes.total(len(augmented))
        squares = inputs.square()
        noise = INPUT_NOISE * float(processes.mean(squares).mean() if processes.shared else squares.mean())
        moments.diagonal()[: inputs.shape[1]] += noise
        share = processes.mean(data.targets)
        variance = share * (1 - share)
        scale = (variance + CLASS_VARIANCE_FLOOR).sqrt()
        root = roots(moments)[1].to(inputs)
        return cls(weight, bias, root, scale.to(inputs), noise * variance.to(inputs), transposed)

    def start(self) -> Tensor:
        return torch.zeros(len(self.scale), len(self.root), dtype=self.root.dtype, device=self.root.device)

    def logits(self, change: Tensor, inputs: Tensor) -> Tensor:
        weight, step = self.weight if self.transposed else self.weight.T, self._unscaled(change)
        if self.bias is None:
            return inputs @ (weight + step.T)
        return inputs @ (weight + step[:, :-1].T) + self.bias + step[:, -1]

    def set(self, change: Tensor) -> None:
        step = self._unscaled(change)
        if self.bias is not None:
            self.bias.add_(step[:, -1])
            step = step[:, :-1]
        self.weight.add_(step.T if self.transposed else step)

    def cost(self, change: Tensor) -> Tensor:
        step = self._unscaled(change)
        weights = step if self.bias is None else step[:, :-1]
        return (self.noise * weights.square().sum(1)).sum() / 2

    def _unscaled(self, change: Tensor) -> Tensor:
        """Change of weight and bias, [classes, n + 1]."""
        return (change / self.scale[:, None]) @ self.root


@dataclass(frozen=True, eq=False)
class TiedHead:
    """A head tied to the embedding: its norm is fitted.

    Attributes:
        table: shared weight [classes, n].
        offset: head bias [classes].
        weight, bias: the norm's [n].
        unit_scale: norm weight that scales by one.
    """

    table: Tensor
    offset: Tensor | None
    weight: Tensor
    bias: Tensor | None
    unit_scale: float

    def start(self) -> Tensor:
        return self.weight.new_zeros(1 if self.bias is None else 2, len(self.weight))

    def logits(self, change: Tensor, inputs: Tensor) -> Tensor:
        scaled = inputs * (1 + change[0])
        if self.bias is not None:
            scaled = scaled + change[1]
        outputs = scaled @ self.table.T
        return outputs if self.offset is None else outputs + self.offset

    def cost(self, change: Tensor) -> Tensor:
        # One scale per coordinate makes no large weights of small ones.
        return change.new_zeros(())

    def set(self, change: Tensor) -> None:
        self.weight.copy_((1 + change[0]) * (self.weight + 1 - self.unit_scale) + self.unit_scale - 1)
        if self.bias is not None:
            self.bias.copy_((1 + change[0]) * self.bias + change[1])


def fit_logistic(
    head: FittedHead, train: HeadData, held_out: HeadData, scale: float, processes: Processes = ALONE
) -> tuple[float, float, Tensor]:
    """Find the head's change with the least held-out KL to the ensemble.

    Args:
        train, held_out: tokens of this process; the loss is a mean over those of all.
        scale: from head outputs to logits.

    Returns:
        Held-out KL before and after, in nats, and the change.
    """
    change = head.start()
    before = best = _held_out_kl(head, change, held_out, scale, processes)
    best_change, count = change.clone(), processes.total(len(train.inputs))
    if not before > NEWTON_TOLERANCE:
        return before, before, best_change
    with torch.enable_grad():
        change.requires_grad_(True)
        optimiser = torch.optim.LBFGS(
            [change], max_iter=LBFGS_STEPS, history_size=remembered_steps(change.nbytes), line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            # Every process has its share of the cost.
            value = scale**2 * head.cost(change) / processes.count
            if value.requires_grad:
                value.backward()
            total = value.detach()
            for inputs, targets in train.chunks():
                value = train.loss(scale * head.logits(change, inputs), targets) / count
                value.backward()
                total = total + value.detach()
            assert change.grad is not None
            processes.add_up(total, change.grad)
            return total

        for _ in range(EVALUATIONS):
            optimiser.step(loss)
            kl = _held_out_kl(head, change.detach(), held_out, scale, processes)
            if not kl < best:
                break
            gain, best, best_change = (best - kl) / best, kl, change.detach().clone()
            if gain < LEAST_GAIN:
                break
    return before, best, best_change


def remembered_steps(size: int) -> int:
    """Steps that L-BFGS remembers of a change of so many bytes; each is two vectors."""
    return max(2, min(HISTORY, HISTORY_BYTES // (2 * max(size, 1))))


@torch.no_grad()
def _held_out_kl(head: FittedHead, change: Tensor, held_out: HeadData, scale: float, processes: Processes) -> float:
    total = 0.0
    for inputs, targets in held_out.chunks():
        total += float(held_out.kl(scale * head.logits(change, inputs), targets))
    return processes.total(total) / processes.total(len(held_out.inputs))

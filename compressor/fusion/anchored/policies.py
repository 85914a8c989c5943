"""Residual policies: the map that leaves a junction.

Imfeld et al. (2024), section 4.2: a policy mixes the couplings of stream and branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.transport import Coupling, Registry, mixed

#: Maps mean squares of the anchor's coordinates [m], of the stream and then of each branch, to the share of each: a
#: number, or one per coordinate [m].  Shares need not sum to one.
Shares = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Policy:
    """A residual policy.

    Attributes:
        local: couplings differ along a stream.
        start: first coupling: from the "entry", "everywhere", or "identity".
        weighs: shares depend on strengths.
    """

    shares: Shares
    local: bool = True
    start: str = "entry"
    weighs: bool = False


POLICIES: Registry[Policy] = Registry("residual policy")


def outgoing_coupling(policy: Policy, couplings: Sequence[Coupling], strengths: Sequence[Tensor]) -> Coupling:
    """Mix couplings [n, m] at a junction.

    Args:
        strengths: mean squares [m].
    """
    shares = policy.shares(strengths)
    mixture, total = couplings[0], shares[0]
    for coupling, share in zip(couplings[1:], shares[1:], strict=True):
        total = total + share
        mixture = mixed(coupling, mixture, torch.where(total > 0, share / total, 0.5))
    return mixture


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def equal(strengths: Sequence[Tensor]) -> Sequence[Tensor]:
    """Stream and branches count alike."""
    return [_number(1.0) for _ in strengths]


def by_scalar(strengths: Sequence[Tensor]) -> Sequence[Tensor]:
    """Shares follow the norm of each signal."""
    return [strength.sum().sqrt() for strength in strengths]


def by_matrix(strengths: Sequence[Tensor]) -> Sequence[Tensor]:
    """Shares follow the norm of each signal, per anchor coordinate."""
    return [strength.sqrt() for strength in strengths]


def stream_alone(strengths: Sequence[Tensor]) -> Sequence[Tensor]:
    """The residual stream keeps its coupling."""
    return [_number(float(place == 0)) for place in range(len(strengths))]


def branches_alone(strengths: Sequence[Tensor]) -> Sequence[Tensor]:
    """The branches' coupling replaces the stream's."""
    return [_number(float(place > 0)) for place in range(len(strengths))]


POLICIES.register("averaging")(Policy(equal))
POLICIES.register("weighted-scalar")(Policy(by_scalar, weighs=True))
POLICIES.register("weighted-matrix")(Policy(by_matrix, weighs=True))
POLICIES.register("residual-only")(Policy(stream_alone, local=False))
POLICIES.register("branch-only")(Policy(branches_alone))
POLICIES.register("identity")(Policy(stream_alone, local=False, start="identity"))
POLICIES.register("global")(Policy(stream_alone, local=False, start="everywhere"))

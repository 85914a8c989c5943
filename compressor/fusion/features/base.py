"""Moments of inner spaces, computed on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

from torch import Tensor


class SpaceStatistics:
    """Moments of one inner space, all teachers pooled.

    Args:
        outgoing: transported outgoing weights [N, m].
        variance, gram: compute second moments [N] and [N, N].
        cross: computes moments with the transported target [N, m].
    """

    def __init__(
        self,
        outgoing: Tensor,
        variance: Callable[[], Tensor],
        gram: Callable[[], Tensor],
        cross: Callable[[], Tensor],
    ) -> None:
        self.outgoing = outgoing
        self._variance, self._gram, self._cross = variance, gram, cross

    @cached_property
    def variance(self) -> Tensor:
        return self._variance()

    @cached_property
    def gram(self) -> Tensor:
        return self._gram()

    @cached_property
    def cross(self) -> Tensor:
        return self._cross()

    def of(self, index: Tensor) -> SpaceStatistics:
        """The moments of some coordinates."""
        return SpaceStatistics(
            self.outgoing[index],
            lambda: self.variance[index],
            lambda: self.gram[index[:, None], index[None, :]],
            lambda: self.cross[index],
        )


class HeadStatistics:
    """Moments of n query heads, g groups and d channels, pooled.

    Args:
        outgoing: transported output projections [Σ n·d, m].
        outputs, queries, keys: compute second moments [Σ n·d, Σ n·d]; of keys [Σ g·d, Σ g·d].
    """

    def __init__(
        self,
        outgoing: Tensor,
        head_dim: int,
        outputs: Callable[[], Tensor],
        queries: Callable[[], Tensor],
        keys: Callable[[], Tensor],
    ) -> None:
        self.outgoing, self.head_dim = outgoing, head_dim
        self._outputs, self._queries, self._keys = outputs, queries, keys

    @cached_property
    def outputs(self) -> Tensor:
        return self._outputs()

    @cached_property
    def queries(self) -> Tensor:
        return self._queries()

    @cached_property
    def keys(self) -> Tensor:
        return self._keys()

    @cached_property
    def contributions(self) -> Tensor:
        """Inner products of heads' residual contributions, [Σ n, Σ n]: (aᵀa) ∘ (wwᵀ) over channels."""
        products = self.outputs * (self.outgoing @ self.outgoing.T)
        heads = products.shape[0] // self.head_dim
        return products.reshape(heads, self.head_dim, heads, self.head_dim).sum(dim=(1, 3))


class Features(Protocol):
    """How to compare a space's coordinates."""

    def space(self, name: str) -> SpaceStatistics:
        """Moments of a reader's inputs and target."""

    def heads(self, name: str) -> HeadStatistics:
        """Moments of queries, keys and head outputs."""

"""Sections of a recipe as keywords: their keys for editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict


class AlignmentKeys(TypedDict, total=False):
    """Keys of `compressor.recipe.AlignmentOptions`."""

    features: Literal["auto", "activations", "weights"]
    tokens: str
    preparation: str
    cost: str
    normalise: str
    solver: str
    epsilon: float
    mass: float
    relaxation: float
    marginals: Literal["uniform", "activation", "outgoing"]
    heads: Literal["auto", "within", "across"]
    query_key: Literal["joint", "separate", "equal"]
    scaling: Literal["push-pull", "one-matrix"]


class Int8Keys(TypedDict, total=False):
    """Keys of `compressor.recipe.Int8Options`."""

    per_channel: bool
    reduce_range: bool
    calibration: Literal["minmax", "percentile"]


class LossKeys(TypedDict, total=False):
    """Keys of `compressor.recipe.LossOptions`."""

    weight: float
    decay: float | None


#: How attention becomes narrower.
NarrowingName = Literal["auto", "fewer-heads", "smaller-heads", "all-heads"]
#: One column, or two of pairs of texts.
Columns = str | Sequence[str] | None

"""Tiny models of every proven family, their calibration batches, and function-preserving widenings of them."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import PretrainedConfig

from compressor.anatomy.certificate import random_model
from compressor.models.inputs import dummy_inputs
from compressor.testing.tasks import train_briefly
from compressor.testing.tiny_configs import FAMILIES as TABLE
from compressor.testing.tiny_configs import tiny_config
from compressor.testing.widening import widen

__all__ = ["FAMILIES", "batches_of", "config_of", "family_params", "tiny_model", "trained_model", "widen"]

FAMILIES = tuple(TABLE)
#: Families that differ in what fusion has to do: pictures, post-norm, a layer that runs twice, transposed weights,
#: fused projections, rotary grouped heads, experts, two stacks.
FAST_FAMILIES = ("vit", "bert", "albert", "gpt2", "gpt-neox", "llama", "mixtral", "t5")


def family_params(families: tuple[str, ...] = FAMILIES, fast: tuple[str, ...] = FAST_FAMILIES) -> list:
    """Parameters of a test that `make test` runs on the fast families and `make test-all` on every one."""
    return [pytest.param(family, marks=() if family in fast else pytest.mark.slow) for family in families]


def config_of(family: str) -> PretrainedConfig:
    """A tiny config."""
    return tiny_config(family)


def tiny_model(config: PretrainedConfig, seed: int = 0):
    """A model with every parameter random, in float64."""
    return random_model(config, seed)


@cache
def trained_model(family: str, seed: int, steps: int = 150):
    """A tiny model that has learned its synthetic task; shared, so leave it as it is."""
    return train_briefly(config_of(family), seed, steps)


def batches_of(config: PretrainedConfig, count: int = 4, batch: int = 16, first_seed: int = 100) -> list[dict]:
    return [dummy_inputs(config, batch, 12, seed=first_seed + i, dtype=torch.float64) for i in range(count)]

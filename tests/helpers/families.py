"""Tiny models of every proven family, their calibration batches, and function-preserving widenings of them."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from compressor.anatomy.certificate import random_model
from compressor.models.inputs import dummy_inputs
from compressor.testing.tiny_configs import FAMILIES as TABLE
from compressor.testing.tiny_configs import tiny_config
from compressor.testing.widening import widen

__all__ = ["FAMILIES", "batches_of", "config_of", "tiny_model", "widen"]

FAMILIES = tuple(TABLE)


def config_of(family: str) -> PretrainedConfig:
    """A tiny config."""
    return tiny_config(family)


def tiny_model(config: PretrainedConfig, seed: int = 0):
    """A model with every parameter random, in float64."""
    return random_model(config, seed)


def batches_of(config: PretrainedConfig, count: int = 4, batch: int = 16, first_seed: int = 100) -> list[dict]:
    return [dummy_inputs(config, batch, 12, seed=first_seed + i, dtype=torch.float64) for i in range(count)]

"""Models that are others with their coordinates in another order."""

from __future__ import annotations

import copy

import torch

from compressor.anatomy import inspect_config
from compressor.anatomy.certificate import random_permutations
from compressor.anatomy.transform import apply


def permuted(model, seed: int = 7):
    """The same function with every space permuted."""
    anatomy = inspect_config(model.config)
    generator = torch.Generator().manual_seed(seed)
    maps = random_permutations(anatomy.spaces.values(), generator)
    state = apply(maps, {name: p.detach() for name, p in model.named_parameters()}, anatomy)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(state[name])
    return twin

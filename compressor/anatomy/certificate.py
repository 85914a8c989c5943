"""The certificate: a permutation of every space must leave the logits unchanged.

That is the definition of having understood an architecture.  The permutations go through the same `apply` that later
transports weights, on a randomly initialised model of the config at reduced size, in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PretrainedConfig

from compressor.anatomy.apply import Map, apply
from compressor.anatomy.axes import Anatomy, Kind, Role, Space, map_key
from compressor.anatomy.resize import model_class, quiet
from compressor.anatomy.trace import logits_of

#: Largest relative change of the logits that still counts as unchanged.
TOLERANCE = 1e-5


def random_model(config: PretrainedConfig, seed: int = 0) -> nn.Module:
    """A model with every parameter random, in float64.

    Fresh models have zero biases and unit norm scales, which no permutation can disturb; here nothing is at rest.
    """
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)(copy.deepcopy(config)).double().eval()
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() == 1 else 0.3 * parameter.std().nan_to_num(1.0).clamp(min=0.1)
            parameter.data += scale * torch.randn_like(parameter)
    return model.requires_grad_(False)


def random_permutation(space: Space, generator: torch.Generator) -> dict[str, Map]:
    """A random element of a space's symmetry group, as maps.

    Attention: key–value groups as wholes, query heads within their group, channels within heads (query–key channels
    stay in place under rotary positions).
    """
    if space.kind is not Kind.ATTENTION:
        return {space.name: Map.permutation(torch.randperm(space.size, generator=generator))}
    per_group, channels = space.heads // space.groups, space.head_dim
    still = torch.arange(channels)
    orders: dict[Role, list[Tensor]] = {role: [] for role in Role}
    for group in torch.randperm(space.groups, generator=generator).tolist():
        match = still if space.rotary else torch.randperm(channels, generator=generator)
        carry = torch.randperm(channels, generator=generator)
        heads = group * per_group + torch.randperm(per_group, generator=generator)
        orders[Role.QUERY] += [head * channels + match for head in heads]
        orders[Role.OUTPUT] += [head * channels + carry for head in heads]
        orders[Role.KEY].append(group * channels + match)
        orders[Role.VALUE].append(group * channels + carry)
    return {map_key(space.name, role): Map.permutation(torch.cat(order)) for role, order in orders.items()}


def logits_change(model: nn.Module, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> float:
    """Relative change of the logits when the model's weights are replaced by `state`.

    Args:
        model: the model, in float64.
        inputs: its inputs.
        state: {parameter name: tensor} in the model's shapes.
    """
    before = logits_of(model, inputs)
    with torch.no_grad():
        after = functional_call(_Logits(model), {f"model.{name}": value for name, value in state.items()}, (inputs,))
    return float((after - before).abs().max() / before.abs().max().clamp(min=1e-30))


class _Logits(nn.Module):
    """The model as a function of its inputs that returns logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return logits_of(self.model, inputs)


def permutation_error(
    model: nn.Module, inputs: Mapping[str, Tensor], anatomy: Anatomy, spaces: list[Space], seed: int = 1
) -> float:
    """Relative change of the logits under a random permutation of `spaces`, all at once."""
    generator = torch.Generator().manual_seed(seed)
    maps: dict[str, Map] = {}
    for space in spaces:
        maps |= random_permutation(space, generator)
    state = apply(maps, dict(model.named_parameters()), anatomy)
    return logits_change(model, inputs, state)


def certify(model: nn.Module, inputs: Mapping[str, Tensor], anatomy: Anatomy, seed: int = 1) -> dict[str, float]:
    """Permute every space alone, then all together: {space name or "all": relative change of the logits}."""
    spaces = list(anatomy.spaces.values())
    errors = {space.name: permutation_error(model, inputs, anatomy, [space], seed) for space in spaces}
    return errors | {"all": permutation_error(model, inputs, anatomy, spaces, seed)}

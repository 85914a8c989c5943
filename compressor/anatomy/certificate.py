"""The certificate: permuted spaces leave the logits unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PretrainedConfig

from compressor.anatomy.hooks import logits_of
from compressor.anatomy.spec import Anatomy, Kind, Role, Space, map_key
from compressor.anatomy.transform import Map, apply
from compressor.models.configs import model_class
from compressor.models.inputs import classifies_text, pad_id, text_config
from compressor.models.ties import untie
from compressor.utils.logging import quiet_transformers

#: Largest relative change of the logits that still counts as unchanged.
CERTIFICATE_TOLERANCE = 1e-5


def random_model(config: PretrainedConfig, seed: int = 0) -> nn.Module:
    """A float64 model with noise: zeros and ones hide permutations."""
    with quiet_transformers(errors=False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = copy.deepcopy(config)
        # Expert kernels do not take float64, and fused attention cannot be traced.
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        text = text_config(config)
        if config.architectures and classifies_text(config) and getattr(text, "pad_token_id", None) is None:
            # Decoders classify several texts by it; which token it is changes no axis.
            text.pad_token_id = pad_id(text)
        model = untie(model_class(config)(config)).double().eval()
        for parameter in model.parameters():
            scale = 0.3 if parameter.dim() == 1 else 0.3 * parameter.std().nan_to_num(1.0).clamp(min=0.1)
            parameter.data += scale * torch.randn_like(parameter)
    return model.requires_grad_(False)


def random_permutations(spaces: Iterable[Space], generator: torch.Generator) -> dict[str, Map]:
    """Random permutations of spaces.

    Rotary channels and fixed heads stay; spaces of one order share it.
    """
    maps: dict[str, Map] = {}
    orders: dict[str, tuple[list[int], list[list[int]]]] = {}
    for space in spaces:
        if space.kind is not Kind.ATTENTION:
            shape = (space.copies, space.size) if space.copies > 1 else (space.size,)
            maps[space.name] = Map.permutation(torch.rand(shape, generator=generator).argsort(dim=-1))
            continue
        order = orders.setdefault(space.order or space.name, _random_heads(space, generator))
        maps |= _permuted_attention(space, order, generator)
    return maps


def _random_heads(space: Space, generator: torch.Generator) -> tuple[list[int], list[list[int]]]:
    """Groups and their heads, shuffled."""
    per_group = space.heads // space.groups

    def shuffled(count: int) -> list[int]:
        return list(range(count)) if space.head_position_fixed else torch.randperm(count, generator=generator).tolist()

    groups = shuffled(space.groups)
    return groups, [[group * per_group + head for head in shuffled(per_group)] for group in groups]


def _permuted_attention(
    space: Space, order: tuple[list[int], list[list[int]]], generator: torch.Generator
) -> dict[str, Map]:
    channels = space.head_dim
    unchanged = torch.arange(channels)
    orders: dict[Role, list[Tensor]] = {role: [] for role in Role}
    for group, heads in zip(*order, strict=True):
        match = unchanged if space.rotary else torch.randperm(channels, generator=generator)
        carry = torch.randperm(channels, generator=generator)
        orders[Role.QUERY] += [head * channels + match for head in heads]
        orders[Role.OUTPUT] += [head * channels + carry for head in heads]
        orders[Role.HEADS] += [torch.tensor([head]) for head in heads]
        orders[Role.KEY].append(group * channels + match)
        orders[Role.VALUE].append(group * channels + carry)
    return {map_key(space.name, role): Map.permutation(torch.cat(order)) for role, order in orders.items()}


def logits_change(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    output: Map | None = None,
    before: Tensor | None = None,
) -> float:
    """Relative change of logits under other weights.

    `output` maps the output of a headless float64 model; `before`: its own logits.
    """
    before = logits_of(model, inputs) if before is None else before
    if output is not None:
        before = before @ output.push.to(before)
    with torch.no_grad():
        after = functional_call(_Logits(model), {f"model.{name}": value for name, value in state.items()}, (inputs,))
    return float((after - before).abs().max() / before.abs().max().clamp(min=1e-30))


class _Logits(nn.Module):
    """Logits as a function of inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return logits_of(self.model, inputs)


def permutation_error(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    anatomy: Anatomy,
    spaces: Iterable[Space],
    seed: int = 1,
    before: Tensor | None = None,
) -> float:
    """Relative change of logits under a permutation."""
    generator = torch.Generator().manual_seed(seed)
    maps = random_permutations(spaces, generator)
    state = apply(maps, dict(model.named_parameters()), anatomy)
    return logits_change(model, inputs, state, maps.get(anatomy.output or ""), before)


def certify(model: nn.Module, inputs: Mapping[str, Tensor], anatomy: Anatomy, seed: int = 1) -> dict[str, float]:
    """{space or "all": relative change of logits}; spaces of one order move together."""
    spaces = list(anatomy.spaces.values())
    before = logits_of(model, inputs)
    errors = {}
    for space in spaces:
        together = [alike for alike in spaces if alike is space or (space.order and alike.order == space.order)]
        errors[space.name] = permutation_error(model, inputs, anatomy, together, seed, before)
    return errors | {"all": permutation_error(model, inputs, anatomy, spaces, seed, before)}

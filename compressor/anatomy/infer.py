"""From a config to a certified anatomy.

Traces show structure, enlarged fields their meaning; permutations prove it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, certify, permutation_error, random_model
from compressor.anatomy.dims import Dim
from compressor.anatomy.expand import expand
from compressor.anatomy.fields import Meaning, interpret, reduced
from compressor.anatomy.flow import Flow
from compressor.anatomy.resize import BUILD_ERRORS, Skeleton, check_small, measure_growth
from compressor.anatomy.rotary_pairs import with_pairs
from compressor.anatomy.spaces import Table, tabulate
from compressor.anatomy.spec import Anatomy, Axis, Kind, Part, Side, Space, Stack
from compressor.anatomy.tracer import TracedDims, trace_dims
from compressor.errors import CertificateError, UnsupportedError
from compressor.models.inputs import dummy_inputs
from compressor.models.tasks import find_task
from compressor.utils.threads import torch_threads

#: Layers of a small model: first, middle, last.
DEPTH = 3


def inspect_config(config: PretrainedConfig) -> Anatomy:
    """A config's certified anatomy, without weights; cached.

    Raises:
        CertificateError: a permutation changes logits.
        UnsupportedError: sizes are indistinguishable.
    """
    key = _cache_key(config)
    if key not in _KNOWN:
        # In small models threads wait for each other: two to six times slower.
        with torch_threads(1):
            _KNOWN[key] = _inspect(config)
    return _KNOWN[key]


def _cache_key(config: PretrainedConfig) -> str:
    """Class and values of a config."""
    values = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    return f"{type(config).__name__} {json.dumps(values, sort_keys=True, default=str)}"


#: {cache key of a config: anatomy}; an inspection takes most of a second.
_KNOWN: dict[str, Anatomy] = {}


def _inspect(config: PretrainedConfig) -> Anatomy:
    skeleton = measure_growth(config, DEPTH)
    study = _study(skeleton)
    sizes = interpret(skeleton, study.config, study.table, lambda changed: _Study.of(changed, skeleton).table)
    if Meaning.HIDDEN not in sizes.meanings.values():
        raise UnsupportedError(f"no field of the {config.model_type} config sizes a residual stream")
    anatomy = _certified(config, study, _with_experts(study, study.anatomy(), skeleton))
    return replace(expand(anatomy, config, skeleton, sizes), errors=anatomy.errors)


def _certified(config: PretrainedConfig, study: _Study, anatomy: Anatomy) -> Anatomy:
    """The certified anatomy with flow, shared by teacher and student."""
    key = _cache_key(study.config)
    if key in _PROVEN and _PROVEN[key][0] == anatomy:
        return _PROVEN[key][1]
    errors = certify(study.model, study.inputs, anatomy)
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= CERTIFICATE_TOLERANCE:
        raise CertificateError(_refusal(config, anatomy, study.traced, worst, errors[worst]))
    paired = with_pairs(study.model, study.inputs, anatomy)
    complete = Flow(study.model, study.inputs, paired, study.table.tied).complete()
    _PROVEN[key] = anatomy, replace(complete, errors=errors)
    return _PROVEN[key][1]


#: {cache key of a small config: its anatomy before and after the certificate}.
_PROVEN: dict[str, tuple[Anatomy, Anatomy]] = {}


def _refusal(config: PretrainedConfig, anatomy: Anatomy, traced: TracedDims, space: str, error: float) -> str:
    touched = [
        name
        for name, axes in anatomy.axes.items()
        if any((part.key or "").partition("/")[0] == space for axis in axes for part in axis.parts)
    ]
    unknown = f"; operations without a rule: {', '.join(sorted(traced.unknown))}" if traced.unknown else ""
    return (
        f"{config.model_type}: permuting {space} changes the logits by {error:.1e} "
        f"(parameters: {', '.join(touched[:4]) or 'all'}){unknown}; this architecture is not understood, so nothing "
        f"was touched. An operation that treats these coordinates unlike each other needs a rule in anatomy/rules"
    )


@dataclass(frozen=True)
class _Study:
    """A small random model, traced once."""

    config: PretrainedConfig
    model: nn.Module
    inputs: dict[str, Tensor]
    traced: TracedDims
    stacks: tuple[Stack, ...]
    table: Table

    @classmethod
    def of(cls, config: PretrainedConfig, skeleton: Skeleton) -> _Study:
        """Build and trace a small model."""
        check_small(config)
        model = random_model(config)
        config = cast(PretrainedConfig, model.config)
        inputs = dummy_inputs(config, batch=3, length=7, dtype=torch.float64)
        traced = trace_dims(model, inputs, head=find_task(config).name != "features")
        stacks = _stacks(config, traced, skeleton)
        return cls(config, model, inputs, traced, stacks, tabulate(model, traced, stacks, _loose(traced, skeleton)))

    def anatomy(self) -> Anatomy:
        """The anatomy before flow and certificate."""
        output = self.table.name_of(self.traced.output[-1])
        return Anatomy(
            type(self.model).__name__, self.table.spaces, self.table.axes, self.stacks, (), {}, output=output,
            tokens=dict(self._tokens()),
        )  # fmt: skip

    def _tokens(self) -> Iterator[tuple[str, int]]:
        """(module, index of its tokens' stack), where known."""

        def token(dims: list[Dim]) -> int | None:
            factors = dims[-2].factors() if len(dims) > 1 else []
            return id(factors[-1].root) if factors else None

        stacks = {token(self.traced.calls[s.layers[0]][0].reads): i for i, s in enumerate(self.stacks)}
        for module, calls in self.traced.calls.items():
            stack = stacks.get(token(calls[0].writes))
            if stack is not None:
                yield module, stack


def _study(skeleton: Skeleton) -> _Study:
    """Study the smallest config that runs, or UnsupportedError."""
    reason = ""
    for config in reduced(skeleton):
        try:
            return _Study.of(config, skeleton)
        except BUILD_ERRORS as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    kind = skeleton.config.model_type
    raise UnsupportedError(f"the {kind} config cannot be built and run at a small size to be certified ({reason})")


def _stacks(config: PretrainedConfig, traced: TracedDims, skeleton: Skeleton) -> tuple[Stack, ...]:
    """Lists of layers in call order."""
    lists: list[tuple[tuple[str, ...], tuple[str, ...], int]] = []
    for layers in skeleton.lists:
        paths = tuple(f"{layers.prefix}{index}" for index in range(getattr(config, layers.fields[0])))
        if all(path in traced.calls for path in paths):
            lists.append((paths, layers.fields, 1))
    lists.sort(key=lambda entry: list(traced.calls).index(entry[0][0]))
    if not lists:
        lists = [_repeated(config, traced)]
    roots = [id(traced.calls[paths[0]][0].reads[-1].root) for paths, _, _ in lists]
    names: dict[int, str] = {}
    for root, (paths, _, _) in zip(roots, lists, strict=True):
        name = "residual" if len(set(roots)) == 1 else paths[0].rpartition(".")[0].rpartition(".")[0] + ".residual"
        names.setdefault(root, name)
    return tuple(
        Stack(paths, fields, names[root], runs) for root, (paths, fields, runs) in zip(roots, lists, strict=True)
    )


def _repeated(config: PretrainedConfig, traced: TracedDims) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """(path, config field, runs) of a shared layer, or UnsupportedError."""
    counts = {
        name: len(calls)
        for name, calls in traced.calls.items()
        if len(calls) > 1 and calls[0].reads[-1].root is calls[0].writes[-1].root
    }
    owned = {name: sum(parameter.startswith(name + ".") for parameter in traced.parameters) for name in counts}
    for name in sorted(counts, key=lambda name: (-owned[name], -len(name))):
        count = counts[name]
        fields = [
            field
            for field in sorted(set(config.to_dict()) - set(config.attribute_map))
            if re.search(r"layer|depth", field) and getattr(config, field) == count
        ]
        if fields:
            return (name,), tuple(fields[:1]), count
    raise UnsupportedError(f"no field of the {config.model_type} config changes the number of layers")


def _loose(traced: TracedDims, skeleton: Skeleton) -> Iterator[str]:
    """Unused parameters of residual width."""
    widest = max(skeleton.growths, key=lambda growth: len(growth.rates), default=None)
    for name, dims in traced.parameters.items():
        alone = all(dim.root is dim and dim.owner is None and not dim.pinned for dim in dims if dim.size > 1)
        used = any(dim.contracted or dim.looked_up for dim in dims)
        roots = {id(dim.root) for dim in dims}
        shared = any(
            id(dim.root) in roots
            for parameter, parameter_dims in traced.parameters.items()
            if parameter != name
            for dim in parameter_dims
        )
        if alone and not used and not shared and widest and (name, len(dims) - 1) in widest.rates:
            yield name


def _with_experts(study: _Study, anatomy: Anatomy, skeleton: Skeleton) -> Anatomy:
    """Add spaces of interchangeable experts."""
    for unit in [space for space in anatomy.spaces.values() if space.copies > 1]:
        owner = unit.name.removesuffix(".ffn")
        matrices = [
            name for name, axes in anatomy.axes.items() if any(p.key == unit.name for axis in axes for p in axis.parts)
        ]
        growth = next((g for g in skeleton.growths if all((name, 0) in g.rates for name in matrices)), None)
        if growth is None:
            continue
        space = Space(f"{owner}.experts", Kind.EXPERTS, unit.copies)
        axes = dict(anatomy.axes)
        for name, dim in growth.rates:
            if name.startswith(owner + "."):
                labelled = list(axes[name])
                labelled[dim] = Axis((Part(space.name, labelled[dim].size),), Side.WRITE)
                axes[name] = tuple(labelled)
        spaces = {**anatomy.spaces, space.name: space, unit.name: replace(unit, experts=space.name)}
        candidate = replace(anatomy, spaces=spaces, axes=axes)
        with suppress(*BUILD_ERRORS):
            error = permutation_error(study.model, study.inputs, candidate, [space, spaces[unit.name]])
            if error <= CERTIFICATE_TOLERANCE:
                anatomy = candidate
    return anatomy

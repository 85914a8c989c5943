"""From a config to a certified anatomy, with no code per architecture.

A small random model of the config is watched operation by operation: which dimensions are the same, which are heads ×
channels, which have an identity.  Enlarging config fields one by one says what each of them sizes.  The certificate
then proves the whole: permuting every space that was found must leave the logits unchanged.
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
from compressor.anatomy.resize import BUILD_ERRORS, Skeleton, measure_growth
from compressor.anatomy.rotary_pairs import with_pairs
from compressor.anatomy.spaces import Table, tabulate
from compressor.anatomy.spec import Anatomy, Axis, Kind, Part, Side, Space, Stack
from compressor.anatomy.tracer import TracedDims, trace_dims
from compressor.errors import CertificateError, UnsupportedError
from compressor.models.inputs import dummy_inputs, task_of
from compressor.utils.threads import torch_threads

#: Layers of a small model: the first, one that stands for all in between, and the last.
DEPTH = 3


def inspect_config(config: PretrainedConfig) -> Anatomy:
    """The certified anatomy of a config; no weights are needed and nothing large is allocated.

    Asked again for the same config, the same anatomy is returned.

    Raises:
        CertificateError: permuting what seemed interchangeable changes the logits; names the space and its parameters.
        UnsupportedError: the config's sizes could not be told apart.
    """
    key = _told(config)
    if key not in _KNOWN:
        # Of models so small threads only wait for each other: twice the time, and six times where cores are shared.
        with torch_threads(1):
            _KNOWN[key] = _inspect(config)
    return _KNOWN[key]


def _told(config: PretrainedConfig) -> str:
    """What a config says of its model, wherever it was read from."""
    said = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    return f"{type(config).__name__} {json.dumps(said, sort_keys=True, default=str)}"


#: Anatomies by config: inspection is a pure function of it and takes a good part of a second.
_KNOWN: dict[str, Anatomy] = {}


def _inspect(config: PretrainedConfig) -> Anatomy:
    skeleton = measure_growth(config, DEPTH)
    study = _study(skeleton)
    sizes = interpret(skeleton, study.config, study.table, lambda other: _Study.of(other, skeleton).table)
    if Meaning.HIDDEN not in sizes.meanings.values():
        raise UnsupportedError(f"no field of the {config.model_type} config sizes a residual stream")
    anatomy = _certified(config, study, _with_experts(study, study.anatomy(), skeleton))
    return replace(expand(anatomy, study.config, config, skeleton, sizes), errors=anatomy.errors)


def _certified(config: PretrainedConfig, study: _Study, anatomy: Anatomy) -> Anatomy:
    """The small model's anatomy with its flow, proven; what was proven of the same small model before counts.

    Configs that differ in their sizes alone, as a teacher's and its student's, have one small model.
    """
    key = _told(study.config)
    if key in _PROVEN and _PROVEN[key][0] == anatomy:
        return _PROVEN[key][1]
    errors = certify(study.model, study.inputs, anatomy)
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= CERTIFICATE_TOLERANCE:
        raise CertificateError(_refusal(config, anatomy, study.watched, worst, errors[worst]))
    whole = with_pairs(study.model, study.inputs, anatomy)
    whole = Flow(study.model, study.inputs, whole, study.table.tied).complete()
    _PROVEN[key] = anatomy, replace(whole, errors=errors)
    return _PROVEN[key][1]


#: Per config of a small model, its anatomy before and behind the certificate.
_PROVEN: dict[str, tuple[Anatomy, Anatomy]] = {}


def _refusal(config: PretrainedConfig, anatomy: Anatomy, watched: TracedDims, space: str, error: float) -> str:
    touched = [
        name
        for name, axes in anatomy.axes.items()
        if any((part.key or "").partition("/")[0] == space for axis in axes for part in axis.parts)
    ]
    unknown = f"; operations without a rule: {', '.join(sorted(watched.unknown))}" if watched.unknown else ""
    return (
        f"{config.model_type}: permuting {space} changes the logits by {error:.1e} "
        f"(parameters: {', '.join(touched[:4]) or 'all'}){unknown}; this architecture is not understood, so nothing "
        f"was touched. An operation that treats these coordinates unlike each other needs a rule in anatomy/rules"
    )


@dataclass(frozen=True)
class _Study:
    """A small random model of a config, watched once."""

    config: PretrainedConfig
    model: nn.Module
    inputs: dict[str, Tensor]
    watched: TracedDims
    stacks: tuple[Stack, ...]
    table: Table

    @classmethod
    def of(cls, config: PretrainedConfig, skeleton: Skeleton) -> _Study:
        """Build, run and watch the model of a small config."""
        model = random_model(config)
        config = cast(PretrainedConfig, model.config)
        inputs = dummy_inputs(config, batch=3, length=7, dtype=torch.float64)
        watched = trace_dims(model, inputs, head=task_of(config) != "features")
        stacks = _stacks(config, model, watched, skeleton)
        return cls(config, model, inputs, watched, stacks, tabulate(model, watched, stacks, _loose(watched, skeleton)))

    def anatomy(self) -> Anatomy:
        """The small model's anatomy, its flow not included and not yet certified."""
        output = self.table.name_of(self.watched.output[-1])
        return Anatomy(
            type(self.model).__name__, self.table.spaces, self.table.axes, self.stacks, (), {}, output=output,
            tokens=dict(self._tokens()),
        )  # fmt: skip

    def _tokens(self) -> Iterator[tuple[str, int]]:
        """Which stack's tokens every module works on, where that can be told."""

        def token(dims: list[Dim]) -> int | None:
            factors = dims[-2].factors() if len(dims) > 1 else []
            return id(factors[-1].root) if factors else None

        stacks = {token(self.watched.passages[s.layers[0]][0].reads): i for i, s in enumerate(self.stacks)}
        for module, passages in self.watched.passages.items():
            found = stacks.get(token(passages[0].writes))
            if found is not None:
                yield module, found


def _study(skeleton: Skeleton) -> _Study:
    """Study the smallest config at which the family can be built and run.

    Raises:
        UnsupportedError: none can; says what the last one failed of.
    """
    reason = ""
    for config in reduced(skeleton):
        try:
            return _Study.of(config, skeleton)
        except BUILD_ERRORS as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    kind = skeleton.config.model_type
    raise UnsupportedError(f"the {kind} config cannot be built and run at a small size to be certified ({reason})")


def _stacks(config: PretrainedConfig, model: nn.Module, watched: TracedDims, skeleton: Skeleton) -> tuple[Stack, ...]:
    """The lists of layers that are run one after the other, in call order, with the names of their residual spaces."""
    found: list[tuple[tuple[str, ...], tuple[str, ...], int]] = []
    for layers in skeleton.lists:
        paths = tuple(f"{layers.prefix}{index}" for index in range(getattr(config, layers.fields[0])))
        if all(path in watched.passages for path in paths):
            found.append((paths, layers.fields, 1))
    found.sort(key=lambda entry: list(watched.passages).index(entry[0][0]))
    if not found:
        found = [_repeated(config, watched)]
    roots = [id(watched.passages[paths[0]][0].reads[-1].root) for paths, _, _ in found]
    names: dict[int, str] = {}
    for root, (paths, _, _) in zip(roots, found, strict=True):
        name = "residual" if len(set(roots)) == 1 else paths[0].rpartition(".")[0].rpartition(".")[0] + ".residual"
        names.setdefault(root, name)
    return tuple(
        Stack(paths, fields, names[root], runs) for root, (paths, fields, runs) in zip(roots, found, strict=True)
    )


def _repeated(config: PretrainedConfig, watched: TracedDims) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """A layer whose weights are shared: it runs several times, and a config field says how often."""
    counts = {
        name: len(passages)
        for name, passages in watched.passages.items()
        if len(passages) > 1 and passages[0].reads[-1].root is passages[0].writes[-1].root
    }
    owned = {name: sum(other.startswith(name + ".") for other in watched.parameters) for name in counts}
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


def _loose(watched: TracedDims, skeleton: Skeleton) -> Iterator[str]:
    """Parameters that no operation touched, as wide as the residual stream (a mask token)."""
    widest = max(skeleton.growths, key=lambda growth: len(growth.rates), default=None)
    for name, dims in watched.parameters.items():
        alone = all(dim.root is dim and dim.owner is None and not dim.pinned for dim in dims if dim.size > 1)
        used = any(dim.contracted or dim.looked_up for dim in dims)
        shared = any(
            other.root is dim.root
            for n, others in watched.parameters.items()
            if n != name
            for other in others
            for dim in dims
        )
        if alone and not used and not shared and widest and (name, len(dims) - 1) in widest.rates:
            yield name


def _with_experts(study: _Study, anatomy: Anatomy, skeleton: Skeleton) -> Anatomy:
    """Try whether the experts of a mixture are interchangeable, layer by layer; keep what the certificate allows."""
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
                own = list(axes[name])
                own[dim] = Axis((Part(space.name, own[dim].size),), Side.WRITE)
                axes[name] = tuple(own)
        spaces = {**anatomy.spaces, space.name: space, unit.name: replace(unit, experts=space.name)}
        candidate = replace(anatomy, spaces=spaces, axes=axes)
        with suppress(*BUILD_ERRORS):
            if (
                permutation_error(study.model, study.inputs, candidate, [space, spaces[unit.name]])
                <= CERTIFICATE_TOLERANCE
            ):
                anatomy = candidate
    return anatomy

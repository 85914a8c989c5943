"""A small random model of a config, watched on its trials."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from transformers import PretrainedConfig

from compressor.anatomy.certificate import Inputs, random_model
from compressor.anatomy.coverage import reached_parameters
from compressor.anatomy.dims import Dim
from compressor.anatomy.hooks import is_pointwise, write_dim
from compressor.anatomy.reduction import reduced
from compressor.anatomy.resize import BUILD_ERRORS, Skeleton, check_small
from compressor.anatomy.spaces import Table, tabulate
from compressor.anatomy.spec import Anatomy, Stack
from compressor.anatomy.tracer import TracedDims, stream_of_call, trace_dims
from compressor.anatomy.trials import make_trials
from compressor.errors import UnsupportedError
from compressor.models.configs.fields import read_field
from compressor.models.tasks.table import find_task


@dataclass(frozen=True)
class Study:
    """A small random model, watched on its trials.

    Attributes:
        trials: the first reaches most parameters.
        unreached: parameters that no trial reaches.
        plain_reaches_all: whether the plain inputs reach what any trial does.
    """

    config: PretrainedConfig
    model: nn.Module
    trials: tuple[Inputs, ...]
    unreached: tuple[str, ...]
    plain_reaches_all: bool
    traced: TracedDims
    stacks: tuple[Stack, ...]
    table: Table

    @classmethod
    def of(cls, config: PretrainedConfig, skeleton: Skeleton) -> Study:
        """Build and trace a small model."""
        check_small(config)
        model = random_model(config)
        config = cast(PretrainedConfig, model.config)
        trials = make_trials(model, config)
        reached = [reached_parameters(model, inputs) for inputs in trials]
        order = sorted(range(len(trials)), key=lambda index: -len(reached[index]))
        trials = [trials[index] for index in order]
        unreached = tuple(name for name, _ in model.named_parameters() if not any(name in names for names in reached))
        return cls._traced(
            config, model, trials, unreached, skeleton, order[0] == 0 and reached[0] >= set().union(*reached)
        )

    @classmethod
    def _traced(
        cls, config: PretrainedConfig, model: nn.Module, trials: list[dict[str, Tensor]], unreached: tuple[str, ...],
        skeleton: Skeleton, plain_reaches_all: bool,
    ) -> Study:  # fmt: skip
        traced = trace_dims(model, trials, head=not find_task(config).headless)
        stacks = _stacks(config, model, traced, skeleton)
        table = tabulate(model, traced, stacks, _loose(traced, skeleton))
        return cls(config, model, tuple(trials), unreached, plain_reaches_all, traced, stacks, table)

    def like(self, config: PretrainedConfig, skeleton: Skeleton) -> Study:
        """The study of a config with other sizes, on as many trials as this one needs to reach all."""
        check_small(config)
        model = random_model(config)
        config = cast(PretrainedConfig, model.config)
        trials = make_trials(model, config)[: 1 if self.plain_reaches_all else None]
        return Study._traced(config, model, trials, self.unreached, skeleton, self.plain_reaches_all)

    def unknown_operations(self) -> str:
        """The end of a message that names operations without a rule, or ""."""
        unknown = sorted(self.traced.unknown)
        return f"; operations without a rule: {', '.join(unknown)}" if unknown else ""

    def anatomy(self) -> Anatomy:
        """The anatomy before flow and certificate."""
        spaces = {name: self.table.name_of(features) for name, features in self.traced.outputs.items()}
        outputs = {name: space for name, space in spaces.items() if space is not None}
        if not spaces:
            raise UnsupportedError(f"the {self.config.model_type} model answers nothing that could be compared")
        main = "logits" if "logits" in spaces else next(iter(spaces))
        return Anatomy(
            type(self.model).__name__, self.table.spaces, self.table.axes, self.stacks, (), {},
            output=outputs.get(main), outputs=outputs, tokens=dict(self._tokens()),
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


def study_smallest(skeleton: Skeleton) -> Study:
    """Study the smallest config that runs, or UnsupportedError."""
    reason = ""
    for config in reduced(skeleton):
        try:
            return Study.of(config, skeleton)
        except BUILD_ERRORS as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    kind = skeleton.config.model_type
    raise UnsupportedError(f"the {kind} config cannot be built and run at a small size to be certified ({reason})")


def _stacks(config: PretrainedConfig, model: nn.Module, traced: TracedDims, skeleton: Skeleton) -> tuple[Stack, ...]:
    """Lists of layers in call order, without those of a convolutional backbone where there are others."""
    lists: list[tuple[tuple[str, ...], tuple[str, ...], int]] = []
    for layers in skeleton.lists:
        paths = tuple(f"{layers.prefix}{index}" for index in range(read_field(config, layers.fields[0])))
        if all(path in traced.calls for path in paths) and _passes_stream(traced, paths):
            lists.append((paths, layers.fields, 1))
    lists = [entry for entry in lists if _maps_linearly(model, entry[0])] or lists
    lists = lists or [*_repeated(config, traced)] or [*_uncounted(traced)]
    order = {name: place for place, name in enumerate(traced.calls)}
    lists.sort(key=lambda entry: order[entry[0][0]])
    if not lists:
        raise UnsupportedError(f"no field of the {config.model_type} config changes the number of layers")
    roots = [id(stream_of_call(traced.calls[paths[0]][0].reads)) for paths, _, _ in lists]
    names: dict[int, str] = {}
    for root, (paths, _, _) in zip(roots, lists, strict=True):
        if root not in names:
            owner = paths[0].rpartition(".")[0]
            # Stages that are lists in a list are told apart by their index.
            named = [f"{path}.residual" for path in (owner.rpartition(".")[0], owner, paths[0])]
            names[root] = "residual" if len(set(roots)) == 1 else next(n for n in named if n not in names.values())
    return tuple(
        Stack(paths, fields, names[root], runs) for root, (paths, fields, runs) in zip(roots, lists, strict=True)
    )


def _passes_stream(traced: TracedDims, paths: tuple[str, ...]) -> bool:
    """Whether layers read and write one last dimension; convolutions of sound do not."""
    ends = [
        (stream_of_call(calls[0].reads), stream_of_call(calls[0].writes))
        for calls in (traced.calls[path] for path in paths)
    ]
    return all(read is written for read, written in ends if read.size > 1)


def _maps_linearly(model: nn.Module, paths: tuple[str, ...]) -> bool:
    """Whether layers have linear modules, which are what is fitted; stages of a ResNet have convolutions alone."""
    modules = (module for path in paths for module in model.get_submodule(path).modules())
    return any(write_dim(module) is not None and not is_pointwise(module) for module in modules)


def _repeated(config: PretrainedConfig, traced: TracedDims) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """(path, config field, runs) of a shared layer, if there is one.

    It passes on the dimension that most parameters have, or the hidden units of an FFN could look like the stream.
    """
    stream = _most_used(traced)
    counts = {
        name: len(calls)
        for name, calls in traced.calls.items()
        if len(calls) > 1 and calls[0].reads[-1].root is calls[0].writes[-1].root is stream
    }
    owned = {name: sum(parameter.startswith(name + ".") for parameter in traced.parameters) for name in counts}
    for name in sorted(counts, key=lambda name: (-owned[name], -len(name))):
        count = counts[name]
        fields = [
            field
            for field in sorted(set(config.to_dict()) - set(config.attribute_map))
            if re.search(r"layer|depth", field) and read_field(config, field) == count
        ]
        if fields:
            yield (name,), tuple(fields[:1]), count
            return


def _uncounted(traced: TracedDims) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], int]]:
    """Runs of layers that no field counts, such as those of stages whose first layer makes another stream.

    Every layer passes the stream of its run on, and they run one after the other.
    """
    order = list(traced.calls)
    places = {name: place for place, name in enumerate(order)}
    inside: list[str] = []
    for first in sorted((name for name in order if name.endswith(".0")), key=lambda name: name.count(".")):
        prefix = first[:-1]
        count = next(index for index in itertools.count() if f"{prefix}{index}" not in traced.calls)
        runs: list[tuple[Dim, list[str]]] = []
        for path in (f"{prefix}{index}" for index in range(count)):
            stream = _passed_stream(traced, path)
            if stream is None or prefix.startswith(tuple(inside)):
                continue
            last = runs[-1][1][-1] if runs and runs[-1][0] is stream else None
            between = order[places[last] + 1 : places[path]] if last is not None else [""]
            if all(name.startswith(f"{path}.") for name in between):
                runs[-1][1].append(path)
            else:
                runs.append((stream, [path]))
        for _, paths in runs:
            inside += [f"{path}." for path in paths]
            yield tuple(paths), (), 1


def _passed_stream(traced: TracedDims, path: str) -> Dim | None:
    """The stream that a layer of several modules reads and writes, if it is one."""
    read, written = (stream_of_call(dims) for dims in (traced.calls[path][0].reads, traced.calls[path][0].writes))
    owners = {name.rpartition(".")[0] for name in traced.parameters if name.startswith(f"{path}.")}
    uses = sum(any(dim.root is read for dim in dims) for dims in traced.parameters.values())
    alike = read is written and read.size > 1 and len(owners) > 1
    return read if alike and len(traced.calls[path]) == 1 and uses > 1 else None


def _most_used(traced: TracedDims) -> Dim | None:
    """The dimension of most parameters."""
    uses: dict[int, tuple[int, Dim]] = {}
    for dims in traced.parameters.values():
        for root in {id(dim.root): dim.root for dim in dims if dim.size > 1}.values():
            uses[id(root)] = (uses.get(id(root), (0, root))[0] + 1, root)
    return max(uses.values(), key=lambda use: use[0], default=(0, None))[1]


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

"""From a config to a certified anatomy, with no code per architecture.

Resizing labels the axes that grow.  What it cannot see (which axis of a square attention matrix holds heads, which
module is the output projection, how fused projections are laid out) is a short list of candidate layouts; each
attention and each linear map outside the layers is decided alone, by the first candidate whose permutations leave the
logits unchanged.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from compressor.anatomy.axes import Anatomy, Axis, Kind, Norm, Role, Side, Step
from compressor.anatomy.canonical import centre_writers, fold_norms
from compressor.anatomy.certificate import TOLERANCE, certify, logits_change, permutation_error, random_model
from compressor.anatomy.fields import Meaning, Sizes, interpret, reduced
from compressor.anatomy.labels import RESIDUAL, AttentionLayout, Grower, Layout, label
from compressor.anatomy.resize import Skeleton, measure
from compressor.anatomy.trace import Trace, checkpoint_of, trace, write_dim
from compressor.errors import CertificateError
from compressor.models.inputs import dummy_inputs


def inspect_config(config: PretrainedConfig) -> Anatomy:
    """The certified anatomy of a config; no weights are needed and nothing large is allocated.

    Asked again for the same config, the same anatomy is returned.

    Raises:
        CertificateError: no candidate layout passed; names the space that broke it.
        UnsupportedError: the config's sizes could not be told apart.
    """
    key = f"{type(config).__name__} {config.to_json_string(use_diff=False)}"
    if key not in _KNOWN:
        _KNOWN[key] = _inspect(config)
    return _KNOWN[key]


#: Anatomies by config: inspection is a pure function of it and takes a good part of a second.
_KNOWN: dict[str, Anatomy] = {}


def _inspect(config: PretrainedConfig) -> Anatomy:
    skeleton = measure(config)
    sizes = interpret(skeleton)
    study = _Study(skeleton, sizes, reduced(skeleton, sizes))
    layout = study.choose_layout()
    small = study.anatomy(layout)
    errors = certify(study.model, study.inputs, small)
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= TOLERANCE:
        raise CertificateError(
            f"{config.model_type}: permuting {worst} changes the logits by {errors[worst]:.1e}; "
            f"this architecture is not understood, so nothing was touched"
        )
    small = study.with_canonical_form(small)
    whole = label(config, study.grower, sizes, layout)
    return Anatomy(
        model_class=type(study.model).__name__,
        spaces=whole.spaces,
        axes=whole.axes,
        layers=whole.layers,
        flow=tuple(_repeat(small.flow, small.layers, whole.layers)),
        centred=small.centred,
        fields={field: meaning.value for field, meaning in sizes.meanings.items()} | _head_field(sizes, layout),
        errors=errors,
    )


def _head_field(sizes: Sizes, layout: Layout) -> dict[str, str]:
    """The field that counts heads, also where its change alone resizes nothing."""
    if not sizes.heads_from_hidden:
        return {}
    return {attention.heads_field: Meaning.HEADS.value for attention in layout.attention.values()}


@dataclass(frozen=True)
class _Study:
    """A small random model of the config, watched once, on which candidate layouts are tried."""

    skeleton: Skeleton
    sizes: Sizes
    config: PretrainedConfig

    @cached_property
    def grower(self) -> Grower:
        return Grower(self.skeleton, self.sizes)

    @cached_property
    def model(self) -> nn.Module:
        return random_model(self.config)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return dummy_inputs(self.config, batch=3, length=8, dtype=torch.float64)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return tuple(f"{self.skeleton.layer_prefix}{i}" for i in range(getattr(self.config, self.skeleton.depth_field)))

    @cached_property
    def trace(self) -> Trace:
        return trace(self.model, self.inputs, self.layers)

    @cached_property
    def linears(self) -> dict[str, nn.Module]:
        """Linear modules in the order in which they are called."""
        modules = dict(self.model.named_modules())
        return {name: modules[name] for name in self.trace.order() if write_dim(modules[name]) is not None}

    def anatomy(self, layout: Layout) -> Anatomy:
        """The small model's anatomy under a layout, its flow included, not yet certified."""
        found = label(self.config, self.grower, self.sizes, layout)
        return Anatomy(type(self.model).__name__, found.spaces, found.axes, found.layers, (), centred=False, fields={})

    def choose_layout(self) -> Layout:
        """Decide the linears outside the layers, then each attention, by trial."""
        layout = self._choose_outside(Layout({}, {}))
        for path, modules in self._attentions().items():
            layout = self._choose_attention(layout, path, modules)
        return layout

    def with_canonical_form(self, anatomy: Anatomy) -> Anatomy:
        """Add the flow, and find by trial which norms fold and whether residual writers may be centred."""
        state = dict(self.model.named_parameters())
        norms = {}
        for name in self._norm_modules(anatomy):
            norm = Norm(name, tuple(self._linear_readers(name)))
            folded = fold_norms(state, [norm], anatomy) if norm.readers else None
            kept = folded is not None and logits_change(self.model, self.inputs, folded) <= TOLERANCE
            norms[name] = replace(norm, folded=kept)
        items = norms | {name: self._step(anatomy, name, list(norms)) for name in self.linears}
        flow = tuple(items[name] for name in dict.fromkeys(self.trace.order()) if name in items)
        anatomy = replace(anatomy, flow=flow)
        centred = logits_change(self.model, self.inputs, centre_writers(state, anatomy)) <= TOLERANCE
        return replace(anatomy, centred=centred)

    def _norm_modules(self, anatomy: Anatomy) -> list[str]:
        """Modules whose parameters are vectors over the residual space and that are no linear map, in call order."""
        found = []
        for name in dict.fromkeys(self.trace.order()):
            axes = anatomy.axes.get(f"{name}.weight", ())
            if len(axes) == 1 and axes[0].parts[0].key == RESIDUAL:
                found.append(name)
        return found

    def _linear_readers(self, norm: str) -> list[str]:
        readers = dict.fromkeys(self.trace.readers_of(norm))
        return [name for name in readers if name in self.linears]

    def _grows_hidden(self, name: str, dim: int) -> bool:
        return self.grower.meanings(f"{name}.weight", dim) == {Meaning.HIDDEN}

    def _attentions(self) -> dict[str, list[str]]:
        """{path below the layer: its linear modules in call order} for what is neither FFN nor outside."""
        groups: dict[str, list[str]] = {}
        for name in self.linears:
            layer, rest = self.skeleton.split_layer(name)
            meanings = [self.grower.meanings(f"{name}.weight", dim) for dim in (0, 1)]
            if layer == 0 and not any(Meaning.FFN in found for found in meanings) and all(meanings):
                groups.setdefault(rest.split(".")[0], []).append(rest)
        return groups

    def _choose_outside(self, layout: Layout) -> Layout:
        """Linears outside the layers read the residual space or an earlier one of them, and write a space or it."""
        chosen = dict(layout.outside)
        square = [
            name
            for name in self.linears
            if self.skeleton.split_layer(name)[0] is None and any(self._grows_hidden(name, dim) for dim in (0, 1))
        ]
        options: list[list[tuple[str, str]]] = []
        earlier: list[str] = []
        for name in square:
            reads = [*reversed(earlier), RESIDUAL]
            writes = [RESIDUAL]
            if self._grows_hidden(name, write_dim(self.linears[name]) or 0):
                writes = [name, RESIDUAL]
                earlier.append(name)
            options.append([(read, write) for write in writes for read in reads])
        best = float("inf")
        for choice in itertools.product(*options):
            candidate = Layout({}, chosen | dict(zip(square, choice, strict=True)))
            anatomy = self.anatomy(candidate)
            fixed_inside = [space for space in anatomy.spaces.values() if space.kind is not Kind.ATTENTION]
            error = permutation_error(self.model, self.inputs, self._ignoring_attention(anatomy), fixed_inside)
            best = min(best, error)
            if error <= TOLERANCE:
                return candidate
        raise CertificateError(
            f"{self.config.model_type}: permuting the residual space changes the logits by {best:.1e} at best; "
            f"linear maps outside the layers that were tried: {', '.join(square) or 'none'}"
        )

    def _ignoring_attention(self, anatomy: Anatomy) -> Anatomy:
        """Hold the heads' axes still: attention modules touch the residual space on one side only."""
        axes = dict(anatomy.axes)
        for modules in self._attentions().values():
            for layer, rest, attribute in itertools.product(self.layers, modules, ("weight", "bias")):
                inner = Side.READ if rest == modules[-1] else Side.WRITE
                name = f"{layer}.{rest}.{attribute}"
                axes[name] = tuple(_still(axis) if axis.side is inner else axis for axis in axes.get(name, ()))
        return replace(anatomy, axes={name: found for name, found in axes.items() if found})

    def _choose_attention(self, layout: Layout, path: str, modules: list[str]) -> Layout:
        best, tried = float("inf"), 0
        for attention in self._attention_candidates(modules):
            candidate = layout.with_attention(path, attention)
            try:
                anatomy = self.anatomy(candidate)
                spaces = [s for s in anatomy.spaces.values() if s.kind is Kind.ATTENTION and s.name.endswith(path)]
                error = permutation_error(self.model, self.inputs, anatomy, spaces)
            except (ValueError, RuntimeError, ZeroDivisionError):
                continue  # the candidate does not even fit the shapes
            tried += 1
            best = min(best, error)
            if error <= TOLERANCE:
                return candidate
        raise CertificateError(
            f"{self.config.model_type}: no layout of the attention {path} ({', '.join(modules)}) leaves the logits "
            f"unchanged; best of {tried} candidates: {best:.1e}"
        )

    def _attention_candidates(self, modules: list[str]) -> Iterator[AttentionLayout]:
        """Layouts worth trying, likeliest first: the module called last is the output projection."""
        readers, output = modules[:-1], modules[-1]
        heads_fields = self.sizes.fields(Meaning.HEADS) or list(self.sizes.head_fields)
        for heads_field, rotary in itertools.product(heads_fields, (False, True)):
            if len(readers) == 1:
                orders = itertools.permutations((Role.QUERY, Role.KEY, Role.VALUE))
                for roles, interleaved in itertools.product(orders, (False, True)):
                    yield AttentionLayout({readers[0]: roles, output: (Role.OUTPUT,)}, heads_field, interleaved, rotary)
            elif len(readers) == 3:
                for roles in _by_hint(readers):
                    split = {module: (role,) for module, role in zip(readers, roles, strict=True)}
                    yield AttentionLayout({**split, output: (Role.OUTPUT,)}, heads_field, False, rotary)

    def _step(self, anatomy: Anatomy, name: str, norms: list[str]) -> Step:
        """The spaces that a linear module connects, and where the residual is seen behind a writer."""
        reads, writes = _ends(anatomy, name)
        checkpoint = None
        if writes == RESIDUAL and self.skeleton.split_layer(name)[0] is not None:
            order = self.trace.order()
            later = [module for module in order[order.index(name) + 1 :] if module in norms or module in self.layers]
            candidates = [(module, module in self.layers) for module in later[:4]]
            checkpoint = checkpoint_of(self.model, self.inputs, name, candidates)
        return Step(name, writes, reads, *(checkpoint or (None, False)))


def _ends(anatomy: Anatomy, module: str) -> tuple[str | None, str | None]:
    """(space read, space written) by a linear module; None where the end is fixed."""
    ends: dict[Side, str | None] = {Side.READ: None, Side.WRITE: None}
    for axis in anatomy.axes.get(f"{module}.weight", ()):
        ends[axis.side] = next((part.key.partition("/")[0] for part in axis.parts if part.key), None)
    return ends[Side.READ], ends[Side.WRITE]


def _by_hint(readers: list[str]) -> list[tuple[Role, ...]]:
    """Orders of query, key and value for three modules; the one that their names suggest comes first."""
    roles = (Role.QUERY, Role.KEY, Role.VALUE)
    wanted = tuple(
        next((role for role in roles if re.search(rf"(^|[._]){role.value[0]}", name)), None) for name in readers
    )
    orders = list(itertools.permutations(roles))
    return sorted(orders, key=lambda order: order != wanted)


def _still(axis: Axis) -> Axis:
    return replace(axis, parts=tuple(replace(part, key=None) for part in axis.parts))


def _repeat(items: tuple, small_layers: tuple[str, ...], layers: tuple[str, ...]) -> Iterator:
    """The flow of the small model with its layers repeated: the last stays last, the first stands for all others."""
    in_layers = tuple(name + "." for name in small_layers)
    placed = False
    for item in items:
        if not item.module.startswith(in_layers):
            yield item
        elif not placed:
            placed = True
            for index in range(len(layers)):
                model = small_layers[-1] if index == len(layers) - 1 else small_layers[0]
                following = dict(zip(small_layers[small_layers.index(model) :], layers[index:], strict=False))
                yield from (_renamed(other, following) for other in items if other.module.startswith(model + "."))


def _renamed(item: Step | Norm, layers: Mapping[str, str]) -> Step | Norm:
    def move(name: str) -> str:
        old = next((old for old in layers if name == old or name.startswith(old + ".")), None)
        return layers[old] + name[len(old) :] if old else name

    def move_if(name: str | None) -> str | None:
        return move(name) if name else None

    if isinstance(item, Norm):
        return replace(item, module=move(item.module), readers=tuple(map(move, item.readers)))
    return replace(
        item,
        module=move(item.module),
        writes=move_if(item.writes),
        reads=move_if(item.reads),
        checkpoint=move_if(item.checkpoint),
    )

"""From the small model that was certified to the whole one: the same table at the sizes of the config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from transformers import PretrainedConfig

from compressor.anatomy.fields import Sizes
from compressor.anatomy.resize import Skeleton, shapes_of
from compressor.anatomy.spec import Anatomy, Axis, Kind, LayerScale, LinearOp, Norm, Part, Role, Space, Stack


def expand(
    small: Anatomy, small_config: PretrainedConfig, config: PretrainedConfig, skeleton: Skeleton, sizes: Sizes
) -> Anatomy:
    """The anatomy of a config's own model.

    Args:
        small: the certified anatomy of the small model.
        small_config: its config.
        config: the config asked for.
        skeleton: its lists of layers.
        sizes: what its fields mean.
    """
    shapes = shapes_of(config)
    stacks = tuple(_whole_stack(stack, config, skeleton) for stack in small.stacks)
    twins = {
        whole: one.layers[_twin(index, len(one.layers), len(stack.layers))]
        for one, stack in zip(small.stacks, stacks, strict=True)
        for index, whole in enumerate(stack.layers)
    }
    rename = _Renaming(twins)
    sources = {name: rename.back(name) for name in shapes}
    spaces = {}
    for name, source in ((new, old) for old in small.spaces for new in rename.forward(old)):
        space = small.spaces[source]
        own = {n: shape for n, shape in shapes.items() if _mentions(small.axes[sources[n]], source, rename, n, name)}
        spaces[name] = _sized(space, name, own, small, sources, config, sizes, rename)
    axes = {}
    for name, shape in shapes.items():
        labelled = small.axes[sources[name]]
        axes[name] = tuple(
            _sized_axis(axis, size, spaces, rename, name) for axis, size in zip(labelled, shape, strict=True)
        )
    fields = {field: meaning.value for field, meaning in sizes.meanings.items()}
    return Anatomy(
        model_class=small.model_class,
        spaces=spaces,
        axes=axes,
        stacks=stacks,
        flow=tuple(_repeated(small.flow, small.stacks, stacks, rename)),
        fields=fields,
        scales=tuple(
            LayerScale(new, rename.moved(scale.writer, scale.parameter, new))
            for scale in small.scales
            for new in rename.forward(scale.parameter)
        ),
        centred=small.centred,
        output=small.output,
        tokens={new: stack for old, stack in small.tokens.items() for new in rename.forward(old)},
    )


def _whole_stack(stack: Stack, config: PretrainedConfig, skeleton: Skeleton) -> Stack:
    if stack.runs > 1:
        return replace(stack, runs=getattr(config, stack.fields[0]))
    layers = next(layers for layers in skeleton.lists if stack.layers[0].startswith(layers.prefix))
    return replace(stack, layers=tuple(f"{layers.prefix}{index}" for index in range(layers.count)))


def _twin(index: int, small: int, whole: int) -> int:
    """The small model's layer that stands for one of the whole: the last for the last, else the first ones."""
    return small - 1 if index == whole - 1 else min(index, max(small - 2, 0))


class _Renaming:
    """Names of the whole model and the small one, by the layers that stand for each other."""

    def __init__(self, twins: Mapping[str, str]) -> None:
        self.twins = twins
        self.wholes: dict[str, list[str]] = {}
        for whole, small in twins.items():
            self.wholes.setdefault(small, []).append(whole)

    def layer(self, name: str, layers: Iterable[str]) -> str | None:
        return next((layer for layer in layers if name == layer or name.startswith(layer + ".")), None)

    def back(self, name: str) -> str:
        """The small model's name of a parameter of the whole."""
        layer = self.layer(name, self.twins)
        return name if layer is None else self.twins[layer] + name[len(layer) :]

    def forward(self, name: str) -> list[str]:
        """All names of the whole model that a name of the small one stands for."""
        layer = self.layer(name, self.wholes)
        return [name] if layer is None else [whole + name[len(layer) :] for whole in self.wholes[layer]]

    def moved(self, name: str, beside: str, place: str) -> str:
        """`name`, which the small model's `beside` mentions, as the whole model's `place` mentions it."""
        old, new = self.layer(beside, self.wholes), self.layer(place, self.twins)
        own = self.layer(name, self.wholes)
        if own is None or old is None or new is None:
            return name
        if own == old:
            return new + name[len(old) :]
        # The next layer's name: a checkpoint may lie there.
        order = list(self.twins)
        return order[min(order.index(new) + 1, len(order) - 1)] + name[len(own) :]


def _mentions(axes: tuple[Axis, ...], source: str, rename: _Renaming, parameter: str, space: str) -> bool:
    """Whether a parameter of the whole model has an axis in a space of it."""
    keys = {(part.key or "").partition("/")[0] for axis in axes for part in axis.parts}
    return source in keys and rename.moved(source, rename.back(parameter), parameter) == space


def _sized(
    space: Space, name: str, own: Mapping[str, tuple[int, ...]], small: Anatomy, sources: Mapping[str, str],
    config: PretrainedConfig, sizes: Sizes, rename: _Renaming,
) -> Space:  # fmt: skip
    """A space at the size at which the whole model has it."""
    ratios = []
    for parameter, shape in own.items():
        for axis, size in zip(small.axes[sources[parameter]], shape, strict=True):
            mine = [part for part in axis.parts if (part.key or "").partition("/")[0] == space.name]
            if mine:
                ratios.append((axis, size, mine))
    if space.kind is not Kind.ATTENTION:
        axis, size, mine = ratios[0]
        copies = next((shape[0] for shape in own.values()), 1) if space.copies > 1 else 1
        experts = rename.moved(space.experts, space.name, name) if space.experts else None
        return replace(space, name=name, size=size // len(axis.parts), copies=copies, experts=experts)
    whole = next(size for axis, size, mine in ratios if (mine[0].key or "").endswith(f"/{Role.OUTPUT.value}"))
    heads = getattr(config, sizes.heads[space.name]) if space.name in sizes.heads else space.heads
    channels = whole // heads
    groups = heads if space.heads == space.groups else space.groups
    for axis, size, mine in ratios:
        if not (mine[0].key or "").endswith(f"/{Role.OUTPUT.value}"):
            keys = [
                part for part in axis.parts if (part.key or "").endswith((f"/{Role.KEY.value}", f"/{Role.VALUE.value}"))
            ]
            queries = sum(1 for part in axis.parts if (part.key or "").endswith(f"/{Role.QUERY.value}"))
            if keys:
                groups = (size - queries * heads * channels) // (len(keys) * channels)
                break
    return replace(space, name=name, size=whole, heads=heads, groups=groups, head_dim=channels)


def _sized_axis(axis: Axis, size: int, spaces: Mapping[str, Space], rename: _Renaming, name: str) -> Axis:
    if axis.fixed:
        return Axis((Part(None, size),), axis.side)
    parts = []
    for part in axis.parts:
        if part.key is None:
            parts.append(Part(None, 0))
            continue
        base, _, role = part.key.partition("/")
        space = spaces[rename.moved(base, rename.back(name), name)]
        count = {Role.KEY.value: space.groups, Role.VALUE.value: space.groups}.get(role, space.heads)
        width = space.size if not role else count if role == Role.HEADS.value else count * space.head_dim
        parts.append(Part(space.name + (f"/{role}" if role else ""), width))
    rest = size - sum(part.size for part in parts)
    fixed = [i for i, part in enumerate(parts) if part.key is None]
    parts = [Part(None, rest // len(fixed)) if i in fixed else part for i, part in enumerate(parts)]
    heads = next((spaces[(p.key or "").partition("/")[0]].heads for p in parts if p.key), 1)
    return Axis(tuple(parts), axis.side, heads if axis.interleave > 1 else 1)


def _repeated(
    items: tuple[LinearOp | Norm, ...], small: tuple[Stack, ...], stacks: tuple[Stack, ...], rename: _Renaming
) -> Iterator[LinearOp | Norm]:
    """The flow of the small model with its layers repeated."""
    starts = {one.layers: stack for one, stack in zip(small, stacks, strict=True)}
    placed: set[tuple[str, ...]] = set()
    for item in items:
        owner = next((s for s in small if rename.layer(item.module, s.layers)), None)
        if owner is None:
            yield item
        elif owner.layers not in placed:
            placed.add(owner.layers)
            for whole in starts[owner.layers].layers:
                twin = rename.twins[whole]
                for other in items:
                    if other.module.startswith(twin + "."):
                        yield _renamed(other, twin, whole, rename)


def _renamed(item: LinearOp | Norm, twin: str, whole: str, rename: _Renaming) -> LinearOp | Norm:
    def move(name: str) -> str:
        return rename.moved(name, item.module, whole)

    def move_if(name: str | None) -> str | None:
        return move(name) if name else None

    if isinstance(item, Norm):
        return replace(
            item, module=move(item.module), readers=tuple(map(move, item.readers)), space=move_if(item.space),
            checkpoint=move_if(item.checkpoint),
        )  # fmt: skip
    return replace(
        item, module=move(item.module), weight=move(item.weight), writes=move_if(item.writes),
        reads=move_if(item.reads), checkpoint=move_if(item.checkpoint),
    )  # fmt: skip

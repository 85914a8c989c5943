"""From small to full anatomies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from transformers import PretrainedConfig

from compressor.anatomy.axes import Axis, Kind, Part, Role, Space
from compressor.anatomy.fields import Sizes
from compressor.anatomy.resize import Skeleton, shapes_of
from compressor.anatomy.spec import Anatomy, LayerScale, LinearOp, Norm, Stack
from compressor.errors import UnsupportedError
from compressor.models.configs.fields import read_field


def expand(small: Anatomy, config: PretrainedConfig, skeleton: Skeleton, sizes: Sizes) -> Anatomy:
    """The full model's anatomy.

    Args:
        small: certified.
        config, skeleton, sizes: of the full model.
    """
    shapes = shapes_of(config)
    stacks = tuple(_full_stack(stack, config, skeleton) for stack in small.stacks)
    twins = {
        layer: small_stack.layers[_twin(index, len(small_stack.layers), len(stack.layers))]
        for small_stack, stack in zip(small.stacks, stacks, strict=True)
        for index, layer in enumerate(stack.layers)
    }
    rename = _Renaming(twins)
    sources = {name: rename.back(name) for name in shapes}
    spaces = {}
    for name, source in ((new, old) for old in small.spaces for new in rename.forward(old)):
        used = {n: shape for n, shape in shapes.items() if _uses(small.axes[sources[n]], source, rename, n, name)}
        spaces[name] = _sized(small.spaces[source], name, used, small, sources, config, sizes, rename)
    axes = {}
    for name, shape in shapes.items():
        labelled = zip(small.axes[sources[name]], shape, strict=True)
        blocks = sources[name] in sizes.blocks
        axes[name] = tuple(
            _sized_axis(axis, size, small.spaces, spaces, rename, name, blocks=blocks) for axis, size in labelled
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
        outputs=small.outputs,
        errors=small.errors,
        sensitivity=small.sensitivity,
        pinned={new: why for old, why in small.pinned.items() for new in rename.forward(old)},
        idle=tuple(new for old in small.idle for new in rename.forward(old)),
        sized={
            field: tuple(dict.fromkeys(new for old in names for new in rename.forward(old)))
            for field, names in sizes.spaces.items()
        },
        tokens={new: stack for old, stack in small.tokens.items() for new in rename.forward(old)},
    )


def _full_stack(stack: Stack, config: PretrainedConfig, skeleton: Skeleton) -> Stack:
    if not stack.fields:
        return stack
    if stack.runs > 1:
        return replace(stack, runs=read_field(config, stack.fields[0]))
    layers = next(layers for layers in skeleton.lists if stack.layers[0].startswith(layers.prefix))
    return replace(stack, layers=tuple(f"{layers.prefix}{index}" for index in range(layers.count)))


def _twin(index: int, small: int, full: int) -> int:
    """The small layer for a full one."""
    return small - 1 if index == full - 1 else min(index, max(small - 2, 0))


class _Renaming:
    """Translates names by {full layer: small layer}."""

    def __init__(self, twins: Mapping[str, str]) -> None:
        self.twins = twins
        self.copies: dict[str, list[str]] = {}
        for layer, small in twins.items():
            self.copies.setdefault(small, []).append(layer)

    def layer(self, name: str, layers: Iterable[str]) -> str | None:
        return next((layer for layer in layers if name == layer or name.startswith(layer + ".")), None)

    def back(self, name: str) -> str:
        """The small model's name."""
        layer = self.layer(name, self.twins)
        return name if layer is None else self.twins[layer] + name[len(layer) :]

    def forward(self, name: str) -> list[str]:
        """All full names."""
        layer = self.layer(name, self.copies)
        return [name] if layer is None else [copy + name[len(layer) :] for copy in self.copies[layer]]

    def moved(self, name: str, user: str, full_user: str) -> str:
        """The full `name` that `full_user` refers to."""
        old, new = self.layer(user, self.copies), self.layer(full_user, self.twins)
        layer = self.layer(name, self.copies)
        if layer is None or old is None or new is None:
            return name
        if layer == old:
            return new + name[len(old) :]
        # A name in the next layer: a checkpoint may be there.
        order = list(self.twins)
        return order[min(order.index(new) + 1, len(order) - 1)] + name[len(layer) :]


def _uses(axes: tuple[Axis, ...], source: str, rename: _Renaming, parameter: str, space: str) -> bool:
    """Whether a full parameter uses a full space."""
    keys = {(part.key or "").partition("/")[0] for axis in axes for part in axis.parts}
    return source in keys and rename.moved(source, rename.back(parameter), parameter) == space


def _sized(
    space: Space, name: str, used: Mapping[str, tuple[int, ...]], small: Anatomy, sources: Mapping[str, str],
    config: PretrainedConfig, sizes: Sizes, rename: _Renaming,
) -> Space:  # fmt: skip
    """A space at full size."""
    ends = [
        (axis, size)
        for parameter, shape in used.items()
        for axis, size in zip(small.axes[sources[parameter]], shape, strict=True)
        if axis.roles_in(space.name) is not None
    ]
    if not ends:
        return replace(space, name=name)
    if space.kind is not Kind.ATTENTION:
        # A latent beside fixed coordinates (DeepSeek's keys) is measured where it is alone.
        axis, size = next((end for end in ends if all(part.key == space.name for part in end[0].parts)), ends[0])
        copies = next((shape[0] for shape in used.values()), 1) if space.copies > 1 else 1
        experts = rename.moved(space.experts, space.name, name) if space.experts else None
        return replace(space, name=name, size=size // len(axis.parts), copies=copies, experts=experts)
    total = next((size for axis, size in ends if _roles(axis, space.name)[0] == Role.OUTPUT), None)
    if total is None:
        raise UnsupportedError(
            f"the heads of {name} in this {config.model_type} are read by no layer at full size, so their number is "
            "not known and it cannot be certified"
        )
    heads = read_field(config, sizes.heads[space.name]) if space.name in sizes.heads else space.heads
    channels = total // heads
    groups = heads if space.heads == space.groups else space.groups
    for axis, size in ends:
        if _roles(axis, space.name)[0] != Role.OUTPUT:
            roles = [(part.key or "").partition("/")[2] for part in axis.parts]
            grouped, queries = roles.count(Role.KEY) + roles.count(Role.VALUE), roles.count(Role.QUERY)
            if grouped:
                groups = (size - queries * heads * channels) // (grouped * channels)
                break
    return replace(space, name=name, size=total, heads=heads, groups=groups, head_dim=channels)


def _roles(axis: Axis, space: str) -> list[str]:
    """An axis's roles in attention."""
    keys = [(part.key or "").partition("/") for part in axis.parts]
    return [role for name, _, role in keys if name == space]


def _sized_axis(
    axis: Axis, size: int, small: Mapping[str, Space], spaces: Mapping[str, Space], rename: _Renaming, name: str, *,
    blocks: bool,
) -> Axis:  # fmt: skip
    """An axis at full size; `blocks`: its parts alternate as often as in the small one."""
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
    remaining = size - sum(part.size for part in parts)
    fixed = [i for i, part in enumerate(parts) if part.key is None]
    parts = [Part(None, remaining // len(fixed)) if i in fixed else part for i, part in enumerate(parts)]
    if axis.interleave == 1 or blocks:
        return Axis(tuple(parts), axis.side, axis.interleave)
    space, full = next(
        (small[(old.key or "").partition("/")[0]], spaces[(new.key or "").partition("/")[0]])
        for old, new in zip(axis.parts, parts, strict=True)
        if new.key
    )
    return Axis(tuple(parts), axis.side, full.heads if axis.interleave == space.heads else full.groups)


def _repeated(
    items: tuple[LinearOp | Norm, ...], small: tuple[Stack, ...], stacks: tuple[Stack, ...], rename: _Renaming
) -> Iterator[LinearOp | Norm]:
    """The flow with layers repeated."""
    full = {small_stack.layers: stack for small_stack, stack in zip(small, stacks, strict=True)}
    done: set[tuple[str, ...]] = set()
    for item in items:
        owner = next((s for s in small if rename.layer(item.module, s.layers)), None)
        if owner is None:
            yield item
        elif owner.layers not in done:
            done.add(owner.layers)
            for layer in full[owner.layers].layers:
                for inside in items:
                    if inside.module.startswith(rename.twins[layer] + "."):
                        yield _renamed(inside, layer, rename)


def _renamed(item: LinearOp | Norm, layer: str, rename: _Renaming) -> LinearOp | Norm:
    """An item's copy in a full layer."""

    def move(name: str) -> str:
        return rename.moved(name, item.module, layer)

    def move_if(name: str | None) -> str | None:
        return move(name) if name else None

    if isinstance(item, Norm):
        return replace(
            item, module=move(item.module), readers=tuple(map(move, item.readers)), space=move_if(item.space),
            checkpoint=move_if(item.checkpoint),
        )  # fmt: skip
    return replace(
        item, module=move(item.module), weight=move(item.weight), writes=move_if(item.writes),
        reads=move_if(item.reads), checkpoint=move_if(item.checkpoint), source=move_if(item.source),
    )  # fmt: skip

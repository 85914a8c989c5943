"""The canonical form: scales folded, residual writers centred.

Residual coordinates may then be rotated; SliceGPT (Ashkboos et al., 2024) does this by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from compressor.anatomy.axes import Side
from compressor.anatomy.lazy_state import Derived
from compressor.anatomy.spec import Anatomy, LayerScale, Norm


def fold_norms(state: Mapping[str, Tensor], norms: Sequence[Norm], anatomy: Anatomy) -> Derived | None:
    """Fold norms' scales into their readers, and shifts into biases; float64.

    None if a reader is tied, or a shift would be divided by almost zero.
    """
    folded = Derived(state)
    tied = {step.module for step in anatomy.steps if step.tied}
    for norm in norms:
        scale, shift = folded[f"{norm.module}.weight"] + (1 - norm.unit_scale), folded.get(f"{norm.module}.bias")
        reading = [(reader, *axis) for reader in norm.readers for axis in _reading(reader, norm.space, anatomy)]
        if tied.intersection(norm.readers):
            return None
        takes = all(f"{reader}.bias" in folded or _writes_keys(anatomy, name) for reader, name, _ in reading)
        if shift is not None and not takes and float(scale.abs().min()) < 1e-3 * float(scale.abs().max()):
            return None
        for reader, name, dim in reading:
            times = folded.shapes[name][dim] // scale.numel()
            if shift is not None and takes and f"{reader}.bias" in folded:
                # A head may read several concatenated tokens.
                folded.change(f"{reader}.bias", partial(_shifted, folded.maker(name), shift.repeat(times), dim))
            folded.change(name, partial(_times, scale.repeat(times), dim))
        folded.change(f"{norm.module}.weight", partial(_filled, norm.unit_scale))
        if shift is not None:
            folded.change(f"{norm.module}.bias", partial(_filled, 0.0) if takes else partial(_over, scale))
    return folded


def _shifted(weight: Callable[[], Tensor], shift: Tensor, dim: int, bias: Tensor) -> Tensor:
    shifted = torch.tensordot(weight(), shift, dims=([dim], [0]))
    # A convolution sums over its kernel.
    return bias + (shifted.flatten(bias.dim()).sum(-1) if shifted.dim() > bias.dim() else shifted)


def _times(scale: Tensor, dim: int, weight: Tensor) -> Tensor:
    return weight * scale.reshape([-1 if d == dim else 1 for d in range(weight.dim())])


def _over(scale: Tensor, vector: Tensor) -> Tensor:
    return vector / scale


def _filled(value: float, vector: Tensor) -> Tensor:
    return torch.full_like(vector, value)


def _centred(dim: int, weight: Tensor) -> Tensor:
    return weight - weight.mean(dim=dim, keepdim=True)


def _reading(module: str, space: str | None, anatomy: Anatomy) -> list[tuple[str, int]]:
    """(parameter, dimension) that read a space."""
    return [
        (name, dim)
        for name, axes in anatomy.axes.items()
        if name.rpartition(".")[0] == module
        for dim, axis in enumerate(axes)
        if axis.side is Side.READ and any(part.key == space for part in axis.parts)
    ]


def _writes_keys(anatomy: Anatomy, weight: str) -> bool:
    """Whether a weight writes keys: the softmax ignores constants there."""
    return any((part.key or "").endswith("/key") for axis in anatomy.axes[weight] for part in axis.parts)


def fold_scales(state: Mapping[str, Tensor], scales: Sequence[LayerScale], anatomy: Anatomy) -> Derived:
    """Fold layer scales into linear maps; float64."""
    folded = Derived(state)
    steps = {step.module: step for step in anatomy.steps}
    for layer_scale in scales:
        scale, name = folded[layer_scale.parameter], steps[layer_scale.writer].weight
        dim = next(d for d, axis in enumerate(anatomy.axes[name]) if axis.side is Side.WRITE)
        folded.change(name, partial(_times, scale, dim))
        bias = f"{layer_scale.writer}.bias"
        if bias in folded:
            folded.change(bias, partial(_times, scale, 0))
        folded.change(layer_scale.parameter, partial(_filled, 1.0))
    return folded


def centre_writers(state: Mapping[str, Tensor], anatomy: Anatomy, residual: str) -> Derived:
    """Centre residual writers, as LayerNorm does."""
    centred = Derived(state)
    vectors = {f"{norm.module}.{end}" for norm in anatomy.norms for end in ("weight", "bias")}
    vectors |= {scale.parameter for scale in anatomy.scales}
    for name, axes in anatomy.axes.items():
        if name in vectors:
            continue
        for dim, axis in enumerate(axes):
            if axis.side is Side.WRITE and any(part.key == residual for part in axis.parts):
                centred.change(name, partial(_centred, dim))
    return centred


def canonicalise(state: Mapping[str, Tensor], anatomy: Anatomy) -> Derived:
    """Fold scales and centre writers where certified; float64.

    Norms fold only if all of their space do.
    """
    folded = fold_scales(state, anatomy.scales, anatomy)
    for space in anatomy.residuals:
        if not anatomy.rotatable(space.name):
            continue
        norms = [norm for norm in anatomy.norms if norm.space == space.name and norm.folded]
        folded = fold_norms(folded, norms, anatomy) or folded
        if space.name in anatomy.centred:
            folded = centre_writers(folded, anatomy, space.name)
    return folded

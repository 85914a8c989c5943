"""The canonical form: norm and layer scales folded into linear maps, residual writers centred.

Folding leaves the function as it was (that is checked, not assumed) and frees the residual coordinates: behind a
parameter-free norm they may be rotated, not only permuted.  Step 0 of the fusion; SliceGPT (Ashkboos et al., 2024)
does the same by hand for each architecture.  Only vectors are computed here; the rest is when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from compressor.anatomy.lazy_state import Derived
from compressor.anatomy.spec import Anatomy, LayerScale, Norm, Side


def fold_norms(state: Mapping[str, Tensor], norms: Sequence[Norm], anatomy: Anatomy) -> Derived | None:
    """Move each norm's scale, and its shift where that is possible, into what reads it.

    A shift that a reader without a bias cannot take up stays with the norm: it is a vector like any other, and a map
    of the coordinates moves it along.

    Returns:
        New weights in float64, with scale 1; None when a reader shares its weight with an embedding, which a scale of
        its own would break, or when a shift would have to be divided by a scale near zero.
    """
    folded = Derived(state)
    tied = {step.module for step in anatomy.steps if step.tied}
    for norm in norms:
        scale, shift = folded[f"{norm.module}.weight"] + (1 - norm.unit_scale), folded.get(f"{norm.module}.bias")
        reading = [(reader, *found) for reader in norm.readers for found in _reading(reader, norm.space, anatomy)]
        if tied.intersection(norm.readers):
            return None
        takes = all(f"{reader}.bias" in folded or _writes_keys(anatomy, name) for reader, name, _ in reading)
        if shift is not None and not takes and float(scale.abs().min()) < 1e-3 * float(scale.abs().max()):
            return None
        for reader, name, dim in reading:
            times = folded.shapes[name][dim] // scale.numel()
            if shift is not None and takes and f"{reader}.bias" in folded:
                # A head may read several tokens side by side.
                folded.change(f"{reader}.bias", partial(_shifted, folded.maker(name), shift.repeat(times), dim))
            folded.change(name, partial(_times, scale.repeat(times), dim))
        folded.change(f"{norm.module}.weight", partial(_filled, norm.unit_scale))
        if shift is not None:
            folded.change(f"{norm.module}.bias", partial(_filled, 0.0) if takes else partial(_over, scale))
    return folded


def _shifted(weight: Callable[[], Tensor], shift: Tensor, dim: int, bias: Tensor) -> Tensor:
    return bias + torch.tensordot(weight(), shift, dims=([dim], [0]))


def _times(scale: Tensor, dim: int, weight: Tensor) -> Tensor:
    return weight * scale.reshape([-1 if d == dim else 1 for d in range(weight.dim())])


def _over(scale: Tensor, vector: Tensor) -> Tensor:
    return vector / scale


def _filled(value: float, vector: Tensor) -> Tensor:
    return torch.full_like(vector, value)


def _centred(dim: int, weight: Tensor) -> Tensor:
    return weight - weight.mean(dim=dim, keepdim=True)


def _reading(module: str, space: str | None, anatomy: Anatomy) -> list[tuple[str, int]]:
    """(parameter, dimension) of everything in a module that reads a space."""
    return [
        (name, dim)
        for name, axes in anatomy.axes.items()
        if name.rpartition(".")[0] == module
        for dim, axis in enumerate(axes)
        if axis.side is Side.READ and any(part.key == space for part in axis.parts)
    ]


def _writes_keys(anatomy: Anatomy, weight: str) -> bool:
    """Whether a reader without a bias writes keys, and so may need none.

    A constant added to all keys adds the same to every logit of a query, which softmax takes out again (Whisper, BEiT).
    Whether that holds is for the caller to try.
    """
    return any((part.key or "").endswith("/key") for axis in anatomy.axes[weight] for part in axis.parts)


def fold_scales(state: Mapping[str, Tensor], scales: Sequence[LayerScale], anatomy: Anatomy) -> Derived:
    """Move layer scales into the linear maps whose output they multiply; float64."""
    folded = Derived(state)
    steps = {step.module: step for step in anatomy.steps}
    for found in scales:
        scale, name = folded[found.parameter], steps[found.writer].weight
        dim = next(d for d, axis in enumerate(anatomy.axes[name]) if axis.side is Side.WRITE)
        folded.change(name, partial(_times, scale, dim))
        bias = f"{found.writer}.bias"
        if bias in folded:
            folded.change(bias, partial(_times, scale, 0))
        folded.change(found.parameter, partial(_filled, 1.0))
    return folded


def centre_writers(state: Mapping[str, Tensor], anatomy: Anatomy, residual: str) -> Derived:
    """Take the mean over residual coordinates out of everything that writes one residual stream.

    LayerNorm takes that mean out anyway, so behind pre-norm blocks nothing changes.
    """
    centred = Derived(state)
    still = {f"{norm.module}.{end}" for norm in anatomy.norms for end in ("weight", "bias")}
    still |= {scale.parameter for scale in anatomy.scales}
    for name, axes in anatomy.axes.items():
        if name in still:
            continue
        for dim, axis in enumerate(axes):
            if axis.side is Side.WRITE and any(part.key == residual for part in axis.parts):
                centred.change(name, partial(_centred, dim))
    return centred


def canonicalise(state: Mapping[str, Tensor], anatomy: Anatomy) -> Derived:
    """Fold every scale that folds and centre the writers where that is certified; float64, same function.

    Norms over a residual space are folded only if that frees its coordinates: half of them would free nothing.
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

"""The canonical form: norm and layer scales folded into linear maps, residual writers centred.

Folding leaves the function as it was (that is checked, not assumed) and frees the residual coordinates: behind a
parameter-free norm they may be rotated, not only permuted.  Step 0 of the fusion; SliceGPT (Ashkboos et al., 2024)
does the same by hand for each architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.anatomy.axes import Anatomy, Norm, Scale, Side


def fold_norms(state: Mapping[str, Tensor], norms: Sequence[Norm], anatomy: Anatomy) -> dict[str, Tensor] | None:
    """Move each norm's scale, and its shift where that is possible, into what reads it.

    A shift that a reader without a bias cannot take up stays with the norm: it is a vector like any other, and a map
    of the coordinates moves it along.

    Returns:
        New weights in float64, with scale 1; None when a reader shares its weight with an embedding, which a scale of
        its own would break, or when a shift would have to be divided by a scale near zero.
    """
    folded = {name: value.to(torch.float64) for name, value in state.items()}
    tied = {step.module for step in anatomy.steps if step.tied}
    for norm in norms:
        scale, shift = folded[f"{norm.module}.weight"] + (1 - norm.rest), folded.get(f"{norm.module}.bias")
        reading = [(reader, *found) for reader in norm.readers for found in _reading(reader, norm.space, anatomy)]
        if tied.intersection(norm.readers):
            return None
        takes = all(f"{reader}.bias" in folded or _writes_keys(anatomy, name) for reader, name, _ in reading)
        if shift is not None and not takes and float(scale.abs().min()) < 1e-3 * float(scale.abs().max()):
            return None
        for reader, name, dim in reading:
            weight, times = folded[name], folded[name].shape[dim] // scale.numel()
            if shift is not None and takes and f"{reader}.bias" in folded:
                # A head may read several tokens side by side.
                moved = torch.tensordot(weight, shift.repeat(times), dims=([dim], [0]))
                folded[f"{reader}.bias"] = folded[f"{reader}.bias"] + moved
            folded[name] = weight * scale.repeat(times).reshape([-1 if d == dim else 1 for d in range(weight.dim())])
        folded[f"{norm.module}.weight"] = torch.full_like(scale, norm.rest)
        if shift is not None:
            folded[f"{norm.module}.bias"] = torch.zeros_like(shift) if takes else shift / scale
    return folded


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


def fold_scales(state: Mapping[str, Tensor], scales: Sequence[Scale], anatomy: Anatomy) -> dict[str, Tensor]:
    """Move layer scales into the linear maps whose output they multiply; float64."""
    folded = {name: value.to(torch.float64) for name, value in state.items()}
    steps = {step.module: step for step in anatomy.steps}
    for found in scales:
        scale, name = folded[found.parameter], steps[found.writer].weight
        dim = next(d for d, axis in enumerate(anatomy.axes[name]) if axis.side is Side.WRITE)
        folded[name] = folded[name] * scale.reshape([-1 if d == dim else 1 for d in range(2)])
        bias = f"{found.writer}.bias"
        if bias in folded:
            folded[bias] = folded[bias] * scale
        folded[found.parameter] = torch.ones_like(scale)
    return folded


def centre_writers(state: Mapping[str, Tensor], anatomy: Anatomy, residual: str) -> dict[str, Tensor]:
    """Take the mean over residual coordinates out of everything that writes one residual stream.

    LayerNorm takes that mean out anyway, so behind pre-norm blocks nothing changes.
    """
    centred = {name: value.to(torch.float64) for name, value in state.items()}
    still = {f"{norm.module}.{end}" for norm in anatomy.norms for end in ("weight", "bias")}
    still |= {scale.parameter for scale in anatomy.scales}
    for name, axes in anatomy.axes.items():
        if name in still:
            continue
        for dim, axis in enumerate(axes):
            if axis.side is Side.WRITE and any(part.key == residual for part in axis.parts):
                centred[name] = centred[name] - centred[name].mean(dim=dim, keepdim=True)
    return centred


def canonicalise(state: Mapping[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """Fold every scale that folds and centre the writers where that is certified; float64, same function.

    Norms over a residual space are folded only if that frees its coordinates: half of them would free nothing.
    """
    folded: dict[str, Tensor] | None = fold_scales(state, anatomy.scales, anatomy)
    for space in anatomy.residuals:
        if not anatomy.rotatable(space.name):
            continue
        norms = [norm for norm in anatomy.norms if norm.space == space.name and norm.folded]
        folded = fold_norms(folded or state, norms, anatomy) or folded
        if space.name in anatomy.centred:
            folded = centre_writers(folded or state, anatomy, space.name)
    return folded or dict(state)

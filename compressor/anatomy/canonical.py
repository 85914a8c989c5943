"""The canonical form: norm scales folded into their readers, residual writers centred.

Folding leaves the function as it was (that is checked, not assumed) and frees the residual coordinates: behind a
parameter-free norm they may be rotated, not only permuted.  Step 0 of the fusion; SliceGPT (Ashkboos et al., 2024)
does the same by hand for each architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compressor.anatomy.axes import Anatomy, Norm, Side


def fold_norms(state: Mapping[str, Tensor], norms: Sequence[Norm], anatomy: Anatomy) -> dict[str, Tensor] | None:
    """Move each norm's scale and shift into the linear modules that read it.

    Returns:
        New weights in float64, with scale 1 and shift 0; None when a reader has no bias to take a shift up, or shares
        its weight with an embedding, which a scale of its own would break.
    """
    folded = {name: value.to(torch.float64) for name, value in state.items()}
    for norm in norms:
        scale, shift = folded[f"{norm.module}.weight"], folded.get(f"{norm.module}.bias")
        for reader in norm.readers:
            name = f"{reader}.weight"
            if name not in anatomy.axes:
                return None
            dim = next(d for d, axis in enumerate(anatomy.axes[name]) if axis.side is Side.READ)
            weight = folded[name]
            if shift is not None:
                if f"{reader}.bias" not in folded:
                    return None
                folded[f"{reader}.bias"] = folded[f"{reader}.bias"] + torch.tensordot(weight, shift, dims=([dim], [0]))
            folded[name] = weight * scale.reshape([-1 if d == dim else 1 for d in range(weight.dim())])
        folded[f"{norm.module}.weight"] = torch.ones_like(scale)
        if shift is not None:
            folded[f"{norm.module}.bias"] = torch.zeros_like(shift)
    return folded


def centre_writers(state: Mapping[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """Take the mean over residual coordinates out of everything that writes the residual stream.

    LayerNorm takes that mean out anyway, so behind pre-norm blocks nothing changes.
    """
    centred = {name: value.to(torch.float64) for name, value in state.items()}
    norm_modules = {norm.module for norm in anatomy.norms}
    residual = anatomy.residual.name
    for name, axes in anatomy.axes.items():
        if name.rpartition(".")[0] in norm_modules:
            continue
        for dim, axis in enumerate(axes):
            if axis.side is Side.WRITE and any(part.key == residual for part in axis.parts):
                centred[name] = centred[name] - centred[name].mean(dim=dim, keepdim=True)
    return centred


def canonicalise(state: Mapping[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """Fold every norm that folds and centre the writers where that is certified; float64, same function."""
    folded = fold_norms(state, [norm for norm in anatomy.norms if norm.folded], anatomy)
    if folded is None:
        folded = {name: value.to(torch.float64) for name, value in state.items()}
    return centre_writers(folded, anatomy) if anatomy.centred else folded

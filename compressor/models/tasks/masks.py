"""Answers for pixels: logits of maps that may be coarser than the masks that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn.functional import interpolate


def pixel_logits(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits [B, C, h, w] as [B, h, w, C]."""
    return outputs[0].movedim(1, -1)


def resized_rows(rows: Tensor, labels: Tensor) -> Tensor:
    """Rows [B, h, w, C] at the pixels of labels [B, H, W], bilinear, as the models' own losses resize logits."""
    if rows.shape[1:3] == labels.shape[1:3]:
        return rows
    maps = interpolate(rows.movedim(-1, 1).float(), size=tuple(labels.shape[1:3]), mode="bilinear", align_corners=False)
    return maps.movedim(1, -1)


def resized_labels(labels: Tensor, rows: Tensor) -> Tensor:
    """Labels [B, H, W] at the places of rows [B, h, w, ...], each that of the nearest pixel."""
    if labels.shape[1:3] == rows.shape[1:3]:
        return labels
    # Class numbers are exact in float64.
    maps = interpolate(labels[:, None].double(), size=tuple(rows.shape[1:3]), mode="nearest-exact")
    return maps[:, 0].to(labels.dtype)

"""Boxes of detectors: how outputs are read, and geometry.

A row [C + 5] of an answer is one place (a query, or a token) for an object: log-probabilities of C classes and of no
object, which is the last, then the box as centre, width and height in shares of the image's sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig

from compressor.models.tasks.task import IGNORED

#: Numbers of a box.
BOX = 4
#: Class number of the only label of an image that is known to show nothing.
EMPTY = -1.0
#: Weights of the box's distances beside the class's, as in DETR (Carion et al. 2020, https://arxiv.org/abs/2005.12872).
L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0


def places_for_objects(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits [B, Q, C + 1] and boxes [B, Q, 4] as one tensor [B, Q, C + 5]."""
    return torch.cat(list(outputs), -1)


def chooses_no_object(config: PretrainedConfig) -> bool:
    """Whether a detector's classes are a softmax with one for no object, not a sigmoid each (focal loss)."""
    sigmoids = any(hasattr(config, name) for name in ("focal_alpha", "focal_loss_alpha"))
    return hasattr(config, "eos_coefficient") and not sigmoids


def split_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Classes [..., C + 1] and boxes [..., 4] of rows."""
    return rows[..., :-BOX], rows[..., -BOX:]


def known_images(labels: Tensor) -> Tensor:
    """Which images [B] have known objects, perhaps none, of labels [B, M, 5] (class, box)."""
    return (labels[..., 0] > IGNORED).any(-1)


def corners(boxes: Tensor) -> Tensor:
    """Left, top, right and bottom of boxes [..., 4]."""
    centre, size = boxes.split(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def box_overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes [..., 4], and the generalised one, which tells how far apart boxes are.

    Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630.
    """
    a, b = corners(first), corners(second)
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    joined = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    ratio = shared / joined.clamp(min=1e-12)
    return ratio, ratio - (hull - joined) / hull.clamp(min=1e-12)


def box_distance(first: Tensor, second: Tensor) -> Tensor:
    """Distance of boxes [..., 4] as in DETR's loss, [...]."""
    _, generalised = box_overlaps(first, second)
    return L1_WEIGHT * (first - second).abs().sum(-1) + GIOU_WEIGHT * (1 - generalised)

"""A plan reduced to blocks of mass."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

#: The most blocks along each side.
SIDE = 64
#: The level of the block with the most mass.
FULL = 255


def sketch(plan: Tensor, *, by_source: bool = False) -> dict[str, Any]:
    """Mean mass of a plan [n, m] in blocks, JSON-ready.

    `by_source` sorts targets by source: hard plans become diagonal.
    "levels" has a byte per block relative to the fullest, deflated, in base64.
    """
    rows, columns = min(plan.shape[0], SIDE), min(plan.shape[1], SIDE)
    # Reduce rows first: reordering full columns takes long.
    blocks = adaptive_avg_pool2d(plan.double()[None], (rows, plan.shape[1]))[0]
    if by_source:
        blocks = blocks[:, _order(plan.double())]
    blocks = adaptive_avg_pool2d(blocks[None], (rows, columns))[0]
    most = float(blocks.max())
    shares = blocks / most if most > 0 else blocks
    # Round up, so that a block with any mass differs from an empty one.
    values = (shares * FULL).ceil().to(torch.uint8).contiguous().numpy().tobytes()
    packed = base64.b64encode(zlib.compress(values, 9)).decode("ascii")
    return {"rows": rows, "columns": columns, "levels": packed}


def levels(sketched: Mapping[str, Any]) -> bytes:
    """A sketch's bytes, row by row."""
    return zlib.decompress(base64.b64decode(sketched["levels"]))


def _order(plan: Tensor) -> Tensor:
    """Targets by mean source, empty ones last."""
    mass, places = plan.sum(0), torch.arange(plan.shape[0], dtype=plan.dtype)
    centre = torch.where(mass > 0, places @ plan / mass, float(plan.shape[0]))
    return centre.argsort(stable=True)

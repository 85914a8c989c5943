"""A plan small enough for a report: its mass in a few blocks, as bytes in text."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

#: Blocks along each side at most.
SIDE = 64
#: The level of the block with the most mass.
FULL = 255


def sketch(plan: Tensor) -> dict[str, Any]:
    """What a plan looks like: its mass in blocks of neighbouring coordinates.

    Args:
        plan: non-negative, [n, m].

    Returns:
        JSON-ready: "rows" and "columns" (at most `SIDE`) and "levels", which `levels` reads: a byte a block, row by
        row, of its mean mass as a share of the fullest block's; deflated, in base64.
    """
    shape = min(plan.shape[0], SIDE), min(plan.shape[1], SIDE)
    blocks = adaptive_avg_pool2d(plan.double()[None], shape)[0]
    most = float(blocks.max())
    shares = blocks / most if most > 0 else blocks
    # Up, so that a block with any mass is told from an empty one.
    values = (shares * FULL).ceil().to(torch.uint8).contiguous().numpy().tobytes()
    packed = base64.b64encode(zlib.compress(values, 9)).decode("ascii")
    return {"rows": shape[0], "columns": shape[1], "levels": packed}


def levels(sketched: Mapping[str, Any]) -> bytes:
    """The bytes of a `sketch`, row by row."""
    return zlib.decompress(base64.b64decode(sketched["levels"]))


def by_source(plan: Tensor) -> Tensor:
    """The plan [n, m] with its columns in the order of the sources that they get their mass from; empty ones last.

    A target's place in a model means nothing; in this order a hard plan is a thin diagonal and a soft one a broad band.
    """
    mass = plan.sum(0)
    places = torch.arange(plan.shape[0], dtype=plan.dtype)
    centre = torch.where(mass > 0, places @ plan / mass, float(plan.shape[0]))
    return plan[:, centre.argsort(stable=True)]

"""Spaces, axes, inference by resizing, head layouts, the certificate, the canonical form: what a model is made of."""

from compressor.anatomy.apply import Map, apply
from compressor.anatomy.axes import Anatomy, Axis, Kind, Norm, Part, Role, Side, Space, Step, map_key
from compressor.anatomy.canonical import canonicalise
from compressor.anatomy.certificate import TOLERANCE, certify
from compressor.anatomy.infer import inspect_config

__all__ = [
    "TOLERANCE", "Anatomy", "Axis", "Kind", "Map", "Norm", "Part", "Role", "Side", "Space", "Step", "apply",
    "canonicalise", "certify", "inspect_config", "map_key",
]  # fmt: skip

"""Anatomies: spaces and axes, inferred and certified."""

from compressor.anatomy.axes import Axis, Kind, Part, Role, Side, Space, map_key
from compressor.anatomy.canonical import canonicalise
from compressor.anatomy.certificate import CERTIFICATE_TOLERANCE, certify
from compressor.anatomy.infer import inspect_config
from compressor.anatomy.spec import Anatomy, LayerScale, LinearOp, Norm, Stack
from compressor.anatomy.transform import Map, apply

__all__ = [
    "CERTIFICATE_TOLERANCE",
    "Anatomy",
    "Axis",
    "Kind",
    "LayerScale",
    "LinearOp",
    "Map",
    "Norm",
    "Part",
    "Role",
    "Side",
    "Space",
    "Stack",
    "apply",
    "canonicalise",
    "certify",
    "inspect_config",
    "map_key",
]  # fmt: skip

"""Fuse teachers into a student."""

from compressor.fusion.anchored.policies import POLICIES
from compressor.fusion.fuse import FusionResult, check_residual_option, fuse_models
from compressor.fusion.maps.residual import RESIDUAL_MAPS
from compressor.fusion.maps.units import UNIT_MAPS
from compressor.fusion.shape.spec import StudentSpec, student_specs

__all__ = [
    "POLICIES",
    "RESIDUAL_MAPS",
    "UNIT_MAPS",
    "FusionResult",
    "StudentSpec",
    "check_residual_option",
    "fuse_models",
    "student_specs",
]

"""From teachers to a student: statistics, maps of every space, transported weights, the closed-form refit."""

from compressor.fusion.fuse import FusionResult, check_residual_option, fuse_models
from compressor.fusion.shape.spec import StudentSpec, student_specs

__all__ = ["FusionResult", "StudentSpec", "check_residual_option", "fuse_models", "student_specs"]

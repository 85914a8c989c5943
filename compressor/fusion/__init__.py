"""From teachers to a student: statistics, maps of every space, transported weights, the closed-form refit."""

from compressor.fusion.fuse import FusionResult, check_residual, fuse
from compressor.fusion.target import Target, target_configs

__all__ = ["FusionResult", "Target", "check_residual", "fuse", "target_configs"]

"""From teachers to a student: statistics, maps of every space, transported weights, the closed-form refit."""

from compressor.fusion.fuse import FusionResult, fuse
from compressor.fusion.target import Target, target_config

__all__ = ["FusionResult", "Target", "fuse", "target_config"]

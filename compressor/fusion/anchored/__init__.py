"""Fusion as in the paper: every coordinate of every teacher is aligned to those of an anchor."""

from compressor.fusion.anchored.align import align
from compressor.fusion.anchored.policies import POLICIES

__all__ = ["POLICIES", "align"]

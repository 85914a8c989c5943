"""Fusion as in the paper: every coordinate of every teacher is aligned to those of an anchor."""

from compressor.fusion.anchored.align import Alignment
from compressor.fusion.anchored.policies import POLICIES

__all__ = ["POLICIES", "Alignment"]

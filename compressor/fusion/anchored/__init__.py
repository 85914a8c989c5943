"""Fusion as in the paper: every coordinate of every teacher is aligned to those of an anchor."""

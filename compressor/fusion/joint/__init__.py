"""Fusion without an anchor."""

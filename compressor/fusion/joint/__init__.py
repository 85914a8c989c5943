"""Fusion without an anchor: candidates of maps and shapes, compared on held-out samples."""

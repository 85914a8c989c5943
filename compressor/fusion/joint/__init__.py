"""Fusion without an anchor: candidates of maps and shapes, judged on held-out samples."""

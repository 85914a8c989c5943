"""Fusion without an anchor: compare candidates on held-out samples."""

"""Fuse an ensemble of wide transformers into one narrow one by optimal transport."""

__version__ = "0.1.0"

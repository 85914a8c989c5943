"""Align every coordinate to an anchor's, as in the paper."""

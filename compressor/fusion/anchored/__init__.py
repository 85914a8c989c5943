"""Fusion as in the paper: align every coordinate to an anchor's."""

"""Calibration batches, what is counted in them, and walking models over them layer by layer."""

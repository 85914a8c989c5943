"""Calibration: batches, masks, streamed statistics, layer-wise runs."""

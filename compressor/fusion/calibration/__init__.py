"""Calibration samples: batches and masks, streamed statistics, models run layer by layer."""

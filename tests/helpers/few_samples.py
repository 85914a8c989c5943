"""Tests use a handful of samples and teachers that know nothing: warnings of that are for `test_findings`."""

from __future__ import annotations


def few_samples_are_enough():
    """Set thresholds that no run of a test reaches."""
    from compressor.report import findings

    findings.ENOUGH_TOKENS = findings.FEW_LABELS = findings.FEW_CLASSES = 0
    findings.CHANCE_ERRORS = findings.NO_SHARE = float("-inf")
    findings.HARM_FACTOR = 1.5

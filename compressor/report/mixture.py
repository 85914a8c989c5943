"""The ensemble's mixture in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_mixture(report: Mapping[str, Any]) -> str:
    """How predictions were mixed, with which weights, and why; "" for one teacher or an older report."""
    mixture = report.get("mixture")
    if not mixture or len(mixture["weights"]) < 2:
        return ""
    total = sum(mixture["weights"]) or 1.0
    weights = ", ".join(f"{weight / total:.3g}" for weight in mixture["weights"])
    nll = mixture.get("nll") or {}
    alone = [value for name, value in nll.items() if name.startswith("teacher ")]
    mixed = [value for name, value in nll.items() if not name.startswith("teacher ")]
    figures = ""
    if alone and mixed:
        each = ", ".join(f"{value:.3g}" for value in alone)
        figures = f": {min(mixed):.3g} nats, each teacher alone {each}"
    return f"mean of {mixture['name']}, weights {weights} ({mixture['why']}{figures})"

"""What a run tried, fitted and kept, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.bench.rows import MISSING

_MEASURES = {
    "held_out_kl": "held-out KL",
    "held_out_error": "held-out error",
    "random_inputs_kl": "KL on random inputs",
    "random_inputs_error": "error on random inputs",
}


def measure_of(candidates: Sequence[Mapping[str, Any]]) -> str:
    """What candidates were judged by, such as held_out_kl."""
    return next(key for key in candidates[0] if key != "candidate")


def describe_shapes(shapes: Sequence[Mapping[str, Any]]) -> str:
    """The shapes of attention that were tried, and how far from the ensemble each was."""
    measure = measure_of(shapes)
    figures = [MISSING if one[measure] is None else f"{one[measure]:.4g}" for one in shapes]
    tried = "; ".join(f"{one['candidate']} {figure}" for one, figure in zip(shapes, figures, strict=True))
    return f"{tried} ({_MEASURES.get(measure, measure)})"


def describe_head(head: Mapping[str, Any]) -> str:
    """How a head was fitted, and what that gained."""
    return (
        f"{head['module']}, fitted to the ensemble's probabilities: held-out KL {head['kl']:.4g}, "
        f"{head['least_squares_kl']:.4g} by least squares"
    )


def describe_reconstruction(fusion: Mapping[str, Any]) -> str:
    """What the polish of layers gained, from the least to the greatest share, or why there was none.

    Args:
        fusion: of a report; former versions do not tell why.
    """
    polished: Sequence[Mapping[str, Any]] = fusion["polished"]
    if not polished:
        return fusion.get("unpolished") or "no layer gained by it on held-out samples"
    gains = sorted(1 - one["after"] / one["before"] for one in polished)
    span = f"{gains[0]:.0%}" if len(gains) == 1 else f"{gains[0]:.0%} to {gains[-1]:.0%}"
    layers = "1 layer" if len(gains) == 1 else f"{len(gains)} layers"
    return f"{layers}: {span} less held-out error than the linear refit alone"


def describe_temperature(finetune: Mapping[str, Any]) -> str:
    """Of the distillation, to follow the learning rate; reports of former versions do not tell."""
    given = finetune.get("temperature")
    return "" if given is None else f" and temperature {given:g}"


def describe_validation(finetune: Mapping[str, Any]) -> str:
    """Whose weights the result has, where samples were kept out to tell."""
    loss = dict(map(tuple, finetune["judged"]))[finetune["best_step"]]
    return (
        f"weights of step {finetune['best_step']}, the best of {len(finetune['judged'])} judgements "
        f"(loss {loss:.4f} on {finetune['validation_samples']} training samples kept out)"
    )

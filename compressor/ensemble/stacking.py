"""Choose how an ensemble's predictions are mixed, and with which weights.

With labels, by held-out negative log likelihood: stacking (Wolpert 1992, https://doi.org/10.1016/S0893-6080(05)80023-1)
of probabilities (Breiman 1996) or of log-probabilities (Hinton 2002).  Without, by how far the teachers disagree, and
so too where classes are chosen, since what counts is the student's choice: mean logits are linear in the teachers' last
streams, so a narrow student learns them better than a mean of probabilities that may be likelier itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compressor.ensemble.probabilities import mix_predictions
from compressor.recipe.fusion import MixtureName

#: T of `ensemble.mix_predictions` by name; a tempered mixture is the best of several, or the middle one without labels.
TEMPERATURES: dict[str, tuple[float, ...]] = {
    "probabilities": (1.0,),
    "logits": (math.inf,),
    "tempered": (4.0, 2.0, 8.0),
    "auto": (1.0, math.inf, 4.0),
}
#: Standard errors by which a more complicated mixture must be better on held-out samples.
STANDARD_ERRORS = 2.0
#: A smaller share leaves a teacher out.
LEAST_SHARE = 0.02
#: Mean Jensen–Shannon divergence of the teachers, as a share of its bound (the entropy of their weights), from which
#: unlabelled teachers know different things: then each is confident where it knows, and logits keep that.
DISAGREEMENT = 0.2
#: Steps of L-BFGS for weights.
STACKING_STEPS = 60


@dataclass(frozen=True)
class TeacherPredictions:
    """What teachers predict.

    Attributes:
        log_probs: per teacher [P, C].
        samples: the sample that each row is of [P]; rows of one sample are not independent.
        labels: [P], of values [P, C]; or None.
        values: whether `log_probs` are values, which only a mean mixes.
        choice: whether the likeliest class is what counts, not how likely it is.
    """

    log_probs: tuple[Tensor, ...]
    samples: Tensor
    labels: Tensor | None = None
    values: bool = False
    choice: bool = False


@dataclass(frozen=True)
class Mixture:
    """A chosen mixture.

    Attributes:
        weights: one per teacher, sum 1.
        mixing: T of `ensemble.mix_predictions`.
        why: in words.
        nll: (mixture or "teacher k" alone, held-out nats); () without labels.
        values: whether values are averaged, whatever `mixing` is.
    """

    weights: tuple[float, ...]
    mixing: float = 1.0
    why: str = "as asked for, or nothing to choose by"
    nll: tuple[tuple[str, float], ...] = ()
    values: bool = False

    @property
    def name(self) -> str:
        """What is averaged."""
        if self.values:
            return "values"
        if self.mixing == 1:
            return "probabilities"
        return "logits" if math.isinf(self.mixing) else f"probabilities tempered by {self.mixing:g}"

    def report(self) -> dict[str, Any]:
        """JSON-ready; `temperature` is T, null for infinity."""
        return {
            "name": self.name,
            "temperature": None if math.isinf(self.mixing) else self.mixing,
            "weights": list(self.weights),
            "why": self.why,
            "nll": dict(self.nll),
        }

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> Mixture:
        """The mixture of a `report`."""
        temperature = report["temperature"]
        return cls(
            tuple(report["weights"]), math.inf if temperature is None else float(temperature),
            report["why"], tuple(report["nll"].items()), report["name"] == "values",
        )  # fmt: skip


def choose_mixture(
    predictions: TeacherPredictions, name: MixtureName = "auto", weights: Sequence[float] | None = None
) -> Mixture:
    """Choose T and weights.

    Args:
        weights: fixed, unnormalised; None chooses them, which takes labels.
    """
    count = len(predictions.log_probs)
    equal = tuple([1 / count] * count) if weights is None else tuple(w / sum(weights) for w in weights)
    if predictions.values:
        name = "probabilities"
    if predictions.labels is None:
        return Mixture(equal, values=True) if predictions.values else _without_labels(predictions, name, equal)
    chosen = _by_labels(predictions, name, equal, fit=weights is None)
    if name != "auto" or not predictions.choice or math.isinf(chosen.mixing):
        return chosen
    agreed = _without_labels(predictions, name, chosen.weights)
    if not math.isinf(agreed.mixing):
        return chosen
    logits = _by_labels(predictions, "logits", equal, fit=weights is None)
    return replace(
        logits, why=f"{agreed.why}; weights by {logits.why}", nll=tuple(dict(chosen.nll + logits.nll).items())
    )


def disagreement(log_probs: Sequence[Tensor], weights: Sequence[float]) -> float:
    """Mean Jensen–Shannon divergence of predictions [P, C], as a share of the entropy of the weights, in [0, 1]."""
    mean = mix_predictions(log_probs, weights)
    total = sum(weights)
    shares = [weight / total for weight in weights]
    bound = -sum(share * math.log(share) for share in shares if share > 0)
    if bound == 0:
        return 0.0
    divergence = 0.0
    for row, share in zip(log_probs, shares, strict=True):
        terms = torch.where(row.isneginf(), 0.0, row.exp() * (row - mean))
        divergence += share * float(terms.sum(-1).double().mean())
    return divergence / bound


def _without_labels(predictions: TeacherPredictions, name: MixtureName, weights: tuple[float, ...]) -> Mixture:
    if name != "auto":
        return Mixture(weights, TEMPERATURES[name][0])
    share = disagreement(predictions.log_probs, weights)
    if share < DISAGREEMENT:
        return Mixture(weights, why=f"the teachers agree: their disagreement is {100 * share:.0f} % of what it can be")
    return Mixture(
        weights, math.inf, why=f"the teachers disagree: their disagreement is {100 * share:.0f} % of what it can be"
    )


def _by_labels(predictions: TeacherPredictions, name: MixtureName, weights: tuple[float, ...], *, fit: bool) -> Mixture:
    """Take the simplest mixture that no other beats by two standard errors; each half is judged by the other's fit."""
    halves = predictions.samples % 2
    losses: dict[str, Tensor] = {}
    best, best_losses = Mixture(weights, TEMPERATURES[name][0]), None
    for fitted in (False, True) if fit and len(weights) > 1 else (False,):
        for mixing in TEMPERATURES[name]:
            label = _label(Mixture((1.0,), mixing, values=predictions.values), fitted)
            losses[label] = torch.empty(len(halves), dtype=torch.float64)
            for half in (0, 1):
                rows = halves == half
                shares = fit_weights(_selected(predictions, ~rows), mixing) if fitted else weights
                losses[label][rows] = _nll(_selected(predictions, rows), shares, mixing)
            if best_losses is None or _better(losses[label], best_losses, predictions.samples):
                best, best_losses = Mixture(weights if not fitted else (), mixing), losses[label]
    if not best.weights:
        best = Mixture(_pruned(fit_weights(predictions, best.mixing)), best.mixing)
    alone = {
        f"teacher {k + 1}": float(_nll(predictions, [float(j == k) for j in range(len(weights))], 1.0).mean())
        for k in range(len(weights))
    }
    nll = {label: float(loss.mean()) for label, loss in losses.items()} | alone
    why = "held-out likelihood of the labels"
    return Mixture(best.weights, best.mixing, why, tuple(nll.items()), predictions.values)


def fit_weights(predictions: TeacherPredictions, mixing: float) -> tuple[float, ...]:
    """Weights on the simplex of the least negative log likelihood; convex for T = 1 and T = ∞."""
    scores = torch.zeros(len(predictions.log_probs), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scores], max_iter=STACKING_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = _mixed_nll(predictions, scores.log_softmax(0), mixing).mean()
        value.backward()
        return value.detach()

    with torch.enable_grad():
        optimiser.step(loss)
    return tuple(float(share) for share in scores.detach().softmax(0))


def _mixed_nll(predictions: TeacherPredictions, log_shares: Tensor, mixing: float) -> Tensor:
    """Negative log likelihood [P] of a mixture, differentiable in the log of its weights [K]."""
    assert predictions.labels is not None
    if predictions.values:
        mixed = torch.tensordot(log_shares.exp(), torch.stack(predictions.log_probs).double(), dims=1)
        # In standard deviations of the labels: steps then have one scale.
        errors = (mixed - predictions.labels) / predictions.labels.std(0, unbiased=False).clamp(min=1e-12)
        return errors.square().sum(-1) / 2
    labels = predictions.labels[:, None]
    # A class that a teacher excludes would take its gradient to infinity.
    rows = [row.double().clamp(min=-50.0) for row in predictions.log_probs]
    if mixing == 1:
        return -torch.stack([row.gather(1, labels)[:, 0] for row in rows], -1).add(log_shares).logsumexp(-1)
    if math.isinf(mixing):
        mixed = sum((share * row for row, share in zip(rows, log_shares.exp(), strict=True)), start=0 * rows[0])
    else:
        stacked = torch.stack([row / mixing + share for row, share in zip(rows, log_shares, strict=True)])
        mixed = mixing * stacked.logsumexp(0)
    return mixed.logsumexp(-1) - mixed.gather(1, labels)[:, 0]


@torch.no_grad()
def _nll(predictions: TeacherPredictions, weights: Sequence[float], mixing: float) -> Tensor:
    return _mixed_nll(predictions, torch.tensor(weights, dtype=torch.float64).log(), mixing)


def _better(losses: Tensor, best: Tensor, samples: Tensor) -> bool:
    """Whether losses [P] are lower by more than the noise of the paired difference between samples."""
    numbers = samples.unique(return_inverse=True)[1]
    gains = torch.zeros(int(numbers.max()) + 1, dtype=torch.float64).index_add_(0, numbers, best - losses)
    error = float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return float(gains.mean()) > STANDARD_ERRORS * error


def _selected(predictions: TeacherPredictions, rows: Tensor) -> TeacherPredictions:
    assert predictions.labels is not None
    log_probs = tuple(row[rows] for row in predictions.log_probs)
    return replace(predictions, log_probs=log_probs, samples=predictions.samples[rows], labels=predictions.labels[rows])


def _pruned(weights: Sequence[float]) -> tuple[float, ...]:
    kept = [weight if weight >= LEAST_SHARE else 0.0 for weight in weights]
    return tuple(weight / sum(kept) for weight in kept)


def _label(mixture: Mixture, fitted: bool) -> str:
    return f"{mixture.name}, {'fitted' if fitted else 'given or equal'} weights"

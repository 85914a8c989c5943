"""Scores of weights between models.

Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", https://arxiv.org/abs/1802.10026,
appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.bench.accuracy import EvaluationBatch, Score, measure_accuracy, predict
from compressor.bench.metrics import METRICS
from compressor.errors import UserError
from compressor.models.inputs import dummy_inputs

#: A `state_dict`, {name: tensor}.
State = Mapping[str, Tensor]

#: Distance relative to the norm of the weights below which two models are equal, above float32 rounding.
SAME = 1e-6
#: Largest difference of log-probabilities between a model and another one with its weights.
SAME_FUNCTION = 1e-4


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane through three models, in Euclidean distances of `parameters`.

    Attributes:
        coordinates: (0, 0); (x, 0), x > 0; (x, y), y > 0.
    """

    states: tuple[State, State, State]
    coordinates: tuple[tuple[float, float], ...]
    parameters: tuple[str, ...]

    @property
    def origin(self) -> State:
        """The first model's state."""
        return self.states[0]

    @property
    def basis(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Orthonormal u, towards the second model, and v, in float64."""
        first, second, third = ({name: state[name].double() for name in self.parameters} for state in self.states)
        length, (along, height) = self.coordinates[1][0], self.coordinates[2]
        u = {name: (second[name] - first[name]) / length for name in self.parameters}
        return u, {name: (third[name] - first[name] - along * u[name]) / height for name in self.parameters}

    def at(self, x: float, y: float) -> dict[str, Tensor]:
        """origin + x·u + y·v, exact at the models' coordinates."""
        length, (along, height) = self.coordinates[1][0], self.coordinates[2]
        third = y / height
        second = (x - third * along) / length
        return mix_states(self.states, (1.0 - second - third, second, third))


def plane_through(models: Mapping[str, PreTrainedModel]) -> Plane:
    """Gram–Schmidt on differences of parameters, in float64.

    Raises:
        UserError: shapes differ, two models are equal, or all are on one line.
    """
    check_shapes(models)
    origin, second, third = models.values()
    parameters = tuple(name for name, _ in origin.named_parameters())
    states = (origin.state_dict(), second.state_dict(), third.state_dict())
    products = torch.zeros(3, 3, dtype=torch.float64)
    for name in parameters:
        first, *others = (state[name].double().flatten() for state in states)
        # The origin's norm, and the products of the two steps from it.
        rows = torch.stack([first, *(other - first for other in others)])
        products += rows @ rows.T
    norm, length = products[0, 0].sqrt().item(), products[1, 1].sqrt().item()
    tolerance = SAME * max(norm, torch.finfo(torch.float64).tiny)
    _check_apart(models, (0, 1), length, tolerance)
    along = (products[1, 2] / length).item()
    # In a second pass: the difference of squares would lose the digits of a flat triangle.
    height = math.sqrt(
        sum(
            (third - first - along / length * (second - first)).square().sum().item()
            for first, second, third in ([state[name].double() for state in states] for name in parameters)
        )
    )
    _check_apart(models, (0, 2), math.hypot(along, height), tolerance)
    _check_apart(models, (1, 2), math.hypot(along - length, height), tolerance)
    if height <= tolerance:
        raise UserError(
            f"{', '.join(models)} lie on one straight line, so they span no plane: compress interpolate shows a line"
        )
    return Plane(states, ((0.0, 0.0), (length, 0.0), (along, height)), parameters)


def grid_states(over: Plane, points: int, margin: float) -> tuple[list[float], list[float]]:
    """`points` (≥ 2) coordinates per axis around the models; `margin`: share of their longer extent."""
    corners = list(zip(*over.coordinates, strict=True))
    padding = margin * max(max(axis) - min(axis) for axis in corners)
    xs, ys = (
        torch.linspace(min(axis) - padding, max(axis) + padding, points, dtype=torch.float64).tolist()
        for axis in corners
    )
    return xs, ys


def interpolated_states(first: State, second: State, shares: Iterable[float]) -> Iterator[dict[str, Tensor]]:
    """(1 − t)·first + t·second, exact at the ends."""
    for share in shares:
        yield mix_states((first, second), (1.0 - share, share))


def mix_states(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    """Σ share·state in float64, cast back; integers of the first."""
    mixed = {}
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            total = torch.zeros_like(tensor, dtype=torch.float64)
            for state, share in zip(states, shares, strict=True):
                total.add_(state[name].double(), alpha=share)
            tensor = total.to(tensor.dtype)
        mixed[name] = tensor
    return mixed


def score_states(
    scratch: PreTrainedModel, states: Iterable[State], batches: Iterable[EvaluationBatch]
) -> Iterator[Score]:
    """The score of each state; overwrites `scratch`, iterates over `batches` for every state."""
    for state in states:
        scratch.load_state_dict(state)
        yield measure_accuracy([scratch], batches)[0]


def score_value(score: Score, metric: str) -> float | None:
    """A metric of a score; None if not finite."""
    value = score.value(metric)
    return value if value is not None and math.isfinite(value) else None


def loss_barrier(shares: Sequence[float], values: Sequence[float | None], metric: str) -> float | None:
    """The largest loss above the line between the ends; None if a value is missing.

    Entezari et al., "The Role of Permutation Invariance in Linear Mode Connectivity", https://arxiv.org/abs/2110.06296.
    For accuracies in [0, 1], for perplexities in nats.
    """
    losses = [_loss(value, metric) for value in values if value is not None]
    if len(losses) < len(values):
        return None
    line = ((1 - share) * losses[0] + share * losses[-1] for share in shares)
    return max(0.0, *(loss - level for loss, level in zip(losses, line, strict=True)))


def check_shapes(models: Mapping[str, PreTrainedModel]) -> None:
    """Raise a `UserError` unless classes, tensor names and shapes agree."""
    (first_name, first), *rest = models.items()
    first_shapes = _shapes(first)
    for name, model in rest:
        if type(first) is not type(model):
            classes = f"{first_name} is a {type(first).__name__} and {name} a {type(model).__name__}"
            raise UserError(f"models of one shape are needed: {classes}")
        shapes = _shapes(model)
        for key in first_shapes | shapes:
            if first_shapes.get(key) != shapes.get(key):
                first_shape, shape = _format_shape(first_shapes.get(key)), _format_shape(shapes.get(key))
                difference = f"{key} is {first_shape} in {first_name} and {shape} in {name}"
                raise UserError(f"models of one shape are needed: {difference}")


def check_function(models: Mapping[str, PreTrainedModel], scratch: PreTrainedModel, seed: int = 0) -> None:
    """Check on random inputs that each model equals `scratch` with its weights; overwrites `scratch`.

    Shapes do not show all differences of configs, such as heads.

    Raises:
        UserError: one differs; names the config fields.
    """
    reference = next(iter(models))
    inputs = dummy_inputs(scratch.config, 2, 8, seed=seed)
    for name, model in models.items():
        scratch.load_state_dict(model.state_dict())
        for predictions in predict([model, scratch], [inputs]):
            from_model, from_scratch = predictions.log_probs
            if not torch.allclose(from_model, from_scratch, atol=SAME_FUNCTION):
                expected, actual = models[reference].config.to_dict(), model.config.to_dict()
                fields = [key for key in sorted(expected | actual) if expected.get(key) != actual.get(key)]
                raise UserError(
                    f"{name} computes something else with its weights in the shape of {reference}: "
                    f"their configs differ in {', '.join(fields)}"
                )


def _check_apart(
    models: Mapping[str, PreTrainedModel], pair: tuple[int, int], distance: float, tolerance: float
) -> None:
    if distance <= tolerance:
        first, second = (list(models)[index] for index in pair)
        raise UserError(f"{first} and {second} have the same weights: a plane needs three different models")


def _loss(value: float, metric: str) -> float:
    kind = METRICS[metric]
    if kind.log:
        return math.log(value)
    return value if kind.lower else -value


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _format_shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a number"

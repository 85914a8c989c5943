"""How good the weights between models are: on a plane through three of them, on the line through two.

The plane is drawn as by Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs"
(arXiv 1802.10026), appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.bench.accuracy import EvaluationBatch, Score, measure_accuracy, predict
from compressor.errors import UserError
from compressor.models.inputs import dummy_inputs

#: {name: tensor}, as `state_dict` gives it.
State = Mapping[str, Tensor]

#: Distance, relative to the length of the weights, below which two models are one: beyond the rounding of float32.
SAME = 1e-6
#: Largest difference of log-probabilities between a model and another one that holds its weights.
SAME_FUNCTION = 1e-4


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane through three models in weight space; its unit is the Euclidean distance between parameters.

    Attributes:
        states: of the three models; the first is the origin.
        coordinates: (x, y) of each: the first at (0, 0), the second at (x > 0, 0), the third at y > 0.
        parameters: names that distances are measured over; what a state has beside them (buffers, tied copies) is
            mixed likewise.
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
        """Orthonormal directions u, towards the second model, and v: {parameter: float64 tensor}."""
        first, second, third = ({name: state[name].double() for name in self.parameters} for state in self.states)
        length, (along, height) = self.coordinates[1][0], self.coordinates[2]
        u = {name: (second[name] - first[name]) / length for name in self.parameters}
        return u, {name: (third[name] - first[name] - along * u[name]) / height for name in self.parameters}

    def at(self, x: float, y: float) -> dict[str, Tensor]:
        """The state at origin + x·u + y·v.

        It is mixed from the three models, by the shares that this comes to: so the models themselves are met exactly,
        at their coordinates, whatever the rounding of u and v.
        """
        length, (along, height) = self.coordinates[1][0], self.coordinates[2]
        third = y / height
        second = (x - third * along) / length
        return mix_states(self.states, (1.0 - second - third, second, third))


def plane_through(models: Mapping[str, PreTrainedModel]) -> Plane:
    """The plane through three models: Gram–Schmidt on the differences of their parameters, summed in float64.

    Args:
        models: {name: model}, three of one shape.

    Raises:
        UserError: their shapes differ, two of them are the same, or all lie on one line.
    """
    check_shapes(models)
    origin, second, third = models.values()
    parameters = tuple(name for name, _ in origin.named_parameters())
    states = (origin.state_dict(), second.state_dict(), third.state_dict())
    products = torch.zeros(3, 3, dtype=torch.float64)
    for name in parameters:
        first, *others = (state[name].double().flatten() for state in states)
        # The origin's own length, and the products of the two steps from it.
        rows = torch.stack([first, *(other - first for other in others)])
        products += rows @ rows.T
    size, length = products[0, 0].sqrt().item(), products[1, 1].sqrt().item()
    least = SAME * max(size, torch.finfo(torch.float64).tiny)
    _check_apart(models, (0, 1), length, least)
    along = (products[1, 2] / length).item()
    # In a second pass, because the difference of the squares would lose the digits of a flat triangle.
    height = math.sqrt(
        sum(
            (third - first - along / length * (second - first)).square().sum().item()
            for first, second, third in ([state[name].double() for state in states] for name in parameters)
        )
    )
    _check_apart(models, (0, 2), math.hypot(along, height), least)
    _check_apart(models, (1, 2), math.hypot(along - length, height), least)
    if height <= least:
        raise UserError(
            f"{', '.join(models)} lie on one straight line, so they span no plane: compress interpolate shows a line"
        )
    return Plane(states, ((0.0, 0.0), (length, 0.0), (along, height)), parameters)


def grid_states(over: Plane, points: int, margin: float) -> tuple[list[float], list[float]]:
    """Coordinates that cover the three models, evenly from edge to edge.

    Args:
        over: the plane.
        points: along each axis, at least 2.
        margin: what is added on every side, as a share of the longer side of the box around the models.

    Returns:
        (the xs, the ys), ascending.
    """
    corners = list(zip(*over.coordinates, strict=True))
    added = margin * max(max(axis) - min(axis) for axis in corners)
    xs, ys = (
        torch.linspace(min(axis) - added, max(axis) + added, points, dtype=torch.float64).tolist() for axis in corners
    )
    return xs, ys


def interpolated_states(first: State, second: State, shares: Iterable[float]) -> Iterator[dict[str, Tensor]]:
    """(1 − t)·first + t·second for each share t; the ends are the models exactly."""
    for share in shares:
        yield mix_states((first, second), (1.0 - share, share))


def mix_states(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    """Σ share·state, summed in float64 and given in the states' own types.

    Tensors that hold no floating-point numbers, such as counters, are those of the first state.
    """
    mixed = {}
    for name, own in states[0].items():
        if own.is_floating_point():
            total = torch.zeros_like(own, dtype=torch.float64)
            for state, share in zip(states, shares, strict=True):
                total.add_(state[name].double(), alpha=share)
            own = total.to(own.dtype)
        mixed[name] = own
    return mixed


def survey(scratch: PreTrainedModel, states: Iterable[State], batches: Iterable[EvaluationBatch]) -> Iterator[Score]:
    """The score of one state after the other.

    Args:
        scratch: a model of the states' shape, whose weights are overwritten.
        states: made when they are asked for, so that only one is in memory.
        batches: labelled model inputs, gone through once for each state.
    """
    for state in states:
        scratch.load_state_dict(state)
        yield measure_accuracy([scratch], batches)[0]


def score_value(score: Score, metric: str) -> float | None:
    """The score's accuracy or perplexity; None where it is not a number, as of weights whose logits overflow."""
    value: float | None = getattr(score, metric)
    return value if value is not None and math.isfinite(value) else None


def loss_barrier(shares: Sequence[float], values: Sequence[float | None], metric: str) -> float | None:
    """How much worse a line gets than the straight line between the scores of its ends suggests, at its worst; ≥ 0.

    As defined by Entezari et al., "The Role of Permutation Invariance in Linear Mode Connectivity" (arXiv 2110.06296).

    Args:
        shares: t of every point, from 0 to 1.
        values: accuracies or perplexities there.
        metric: "accuracy", whose barrier is a difference in [0, 1], or "perplexity", whose barrier is in nats.

    Returns:
        The barrier, or None if a value is missing.
    """
    worse = [_badness(value, metric) for value in values if value is not None]
    if len(worse) < len(values):
        return None
    line = ((1 - share) * worse[0] + share * worse[-1] for share in shares)
    return max(0.0, *(value - level for value, level in zip(worse, line, strict=True)))


def check_shapes(models: Mapping[str, PreTrainedModel]) -> None:
    """Refuse models between whose weights there is no line: of other classes, names of tensors, or shapes.

    Raises:
        UserError: they differ; it names the first tensor that does.
    """
    (first, model), *others = models.items()
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for second, other in others:
        if type(model) is not type(other):
            kinds = f"a {type(model).__name__} and {second} a {type(other).__name__}"
            raise UserError(f"models of one shape are needed: {first} is {kinds}")
        its = {name: tuple(tensor.shape) for name, tensor in other.state_dict().items()}
        for name in own | its:
            if own.get(name) != its.get(name):
                said = f"{name} is {_say(own.get(name))} in {first} and {_say(its.get(name))} in {second}"
                raise UserError(f"models of one shape are needed: {said}")


def check_function(models: Mapping[str, PreTrainedModel], scratch: PreTrainedModel, seed: int = 0) -> None:
    """Refuse models that say something else than the scratch model with their weights in it, on random inputs.

    Shapes do not tell: a config that differs in the number of heads or in a norm's epsilon makes another function of
    the same weights.

    Args:
        models: {name: model}, of one shape; the scratch model has the first one's config.
        scratch: the model that will be measured, whose weights are overwritten.
        seed: of the inputs.

    Raises:
        UserError: one of them does; it names what differs in the configs.
    """
    reference = next(iter(models))
    inputs = dummy_inputs(scratch.config, 2, 8, seed=seed)
    for name, model in models.items():
        scratch.load_state_dict(model.state_dict())
        for found in predict([model, scratch], [inputs]):
            own, lent = found.log_probs
            if not torch.allclose(own, lent, atol=SAME_FUNCTION):
                ours, theirs = models[reference].config.to_dict(), model.config.to_dict()
                fields = [key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key)]
                raise UserError(
                    f"{name} computes something else with its weights in the shape of {reference}: "
                    f"their configs differ in {', '.join(fields)}"
                )


def _check_apart(models: Mapping[str, PreTrainedModel], pair: tuple[int, int], distance: float, least: float) -> None:
    if distance <= least:
        first, second = (list(models)[index] for index in pair)
        raise UserError(f"{first} and {second} have the same weights: a plane needs three different models")


def _badness(value: float, metric: str) -> float:
    return math.log(value) if metric == "perplexity" else -value


def _say(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a number"

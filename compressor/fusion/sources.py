"""What fusion knows of each teacher: its anatomy, its canonical weights, and a model that computes with them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.anatomy import Anatomy, Side, Step, canonicalise, inspect_config


@dataclass(frozen=True, eq=False)
class Source:
    """One teacher, ready to be transported.

    Attributes:
        name: how the report calls it.
        model: computes with the canonical weights, in the teacher's precision.
        anatomy: certified.
        state: {parameter: canonical weights, float64}.
        weight: α, the teacher's share; all teachers' sum to 1.
    """

    name: str
    model: PreTrainedModel
    anatomy: Anatomy
    state: dict[str, Tensor]
    weight: float

    def read_weight(self, step: Step) -> Tensor:
        """The step's matrix as [inputs, outputs], float64."""
        return as_input_output(self.state[f"{step.module}.weight"], self.anatomy, step)


def as_input_output(weight: Tensor, anatomy: Anatomy, step: Step) -> Tensor:
    """A linear module's weight with its input axis first."""
    return weight if reads_first(anatomy, step) else weight.T


def reads_first(anatomy: Anatomy, step: Step) -> bool:
    """Whether dimension 0 of the module's weight is its input (Conv1D) and not its output (Linear)."""
    return anatomy.axes[f"{step.module}.weight"][0].side is Side.READ


def prepare(name: str, model: PreTrainedModel, weight: float) -> Source:
    """Certify a teacher's anatomy and bring its weights into canonical form; the teacher itself stays untouched.

    Args:
        name: how the report calls the teacher.
        model: the teacher.
        weight: α.

    Raises:
        CertificateError, UnsupportedError: the architecture is not understood.
    """
    anatomy = inspect_config(model.config)
    state = {key: value.detach().double() for key, value in model.named_parameters()}
    if not anatomy.canonical:
        return Source(name, model, anatomy, state, weight)
    state = canonicalise(state, anatomy)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter.copy_(state[key])
    return Source(name, twin, anatomy, state, weight)


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights that sum to one."""
    total = sum(weights)
    return [weight / total for weight in weights]

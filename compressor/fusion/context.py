"""The context of a fusion."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from compressor.anatomy import Anatomy, Kind, inspect_config
from compressor.anatomy.batch_norms import statistics_of
from compressor.errors import UnsupportedError
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.shape.spec import StudentSpec
from compressor.fusion.streaming import Streaming
from compressor.fusion.teacher import FusionTeacher
from compressor.models.configs.reading import model_class
from compressor.models.headless.configured import as_configured
from compressor.models.streamed import OUTSIDE, StoredWeights, WeightBlocks, weightless_model
from compressor.models.ties import untie
from compressor.recipe import AlignmentOptions, FusionOptions
from compressor.transport import CouplingOptions
from compressor.utils.logging import quiet_transformers
from compressor.utils.tensor_store import TensorStore

#: Callback (fraction, message).
OnProgress = Callable[[float, str], None]


class StageTimer:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap."""
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True, eq=False)
class StudentCandidate:
    """A possible shape, with a model whose weights will be replaced."""

    spec: StudentSpec
    model: PreTrainedModel
    anatomy: Anatomy

    @property
    def heads(self) -> str:
        """The first attention's heads."""
        attentions = [space for space in self.anatomy.spaces.values() if space.kind is Kind.ATTENTION]
        if not attentions:
            return "no attention"
        base = self.spec.rotary_base
        rotary = "" if base is None else f" (rotary base {base:.3g})"
        return f"{attentions[0].heads} heads of {attentions[0].head_dim}{rotary}"


@dataclass(frozen=True, eq=False)
class FusionContext:
    """The context of a fusion.

    Attributes:
        anchor: may be a teacher.
        alternatives: other shapes of this width.
        anatomy: the student's; towards an anchor with stream sites.
        mixing: of the ensemble's prediction (`ensemble.mix_predictions`).
        streaming: how models are read layer by layer from disk; None for models in memory.
        processes: those that share the calibration samples.
    """

    teachers: Sequence[FusionTeacher]
    anchor: FusionTeacher | None
    candidate: StudentCandidate
    alternatives: Sequence[StudentCandidate]
    anatomy: Anatomy
    calibration: CalibrationSet | None
    options: FusionOptions
    coupling: CouplingOptions
    on_progress: OnProgress
    timer: StageTimer = field(default_factory=StageTimer)
    mixing: float = 1.0
    streaming: Streaming | None = None
    processes: Processes = ALONE

    @property
    def store(self) -> TensorStore | None:
        """What keeps hidden states."""
        return None if self.streaming is None else self.streaming.store

    @property
    def model(self) -> PreTrainedModel:
        """The student's model."""
        return self.candidate.model

    def with_candidate(self, candidate: StudentCandidate) -> FusionContext:
        """The same with another shape."""
        return replace(self, candidate=candidate, anatomy=candidate.anatomy)

    @property
    def from_activations(self) -> bool:
        """Whether ground costs compare activations."""
        return self.calibration is not None and self.options.alignment.features != "weights"

    @property
    def has_held_out(self) -> bool:
        """Whether samples are held out."""
        return self.calibration is not None and len(self.calibration.held_out) > 0

    @property
    def refit(self) -> bool:
        """Whether to refit, which needs data."""
        return self.options.refit and self.calibration is not None


def student_candidates(
    specs: Sequence[StudentSpec], dtype: torch.dtype, seed: int, device: torch.device
) -> list[StudentCandidate]:
    """A random model per spec."""
    models = [_random_model(spec, dtype, seed).to(device) for spec in specs]  # type: ignore[arg-type]
    return [
        StudentCandidate(spec, model, inspect_config(spec.config)) for spec, model in zip(specs, models, strict=True)
    ]


def streamed_candidate(spec: StudentSpec, dtype: torch.dtype, precision: torch.dtype) -> StudentCandidate:
    """A model whose layers are made one by one, in `dtype`, and end in `precision`; all else of it is in memory."""
    model = weightless_model(copy.deepcopy(spec.config), dtype)
    WeightBlocks(model, StoredWeights({}, dtype), precision).take(OUTSIDE)
    return StudentCandidate(spec, model, inspect_config(spec.config))


@torch.no_grad()
def set_buffers(model: nn.Module, teachers: Sequence[FusionTeacher]) -> None:
    """Set what a model stores besides parameters (biases of routers) to the teachers' mean.

    Raises:
        UnsupportedError: it has another size in the student, and no map.
    """
    # Statistics of batch norms are folded into parameters.
    stored = model.state_dict().keys() - statistics_of(model)
    for name, buffer in model.named_buffers():
        if name not in stored or not buffer.is_floating_point():
            continue
        values = [(teacher.weight, teacher.model.get_buffer(teacher.local_name(name))) for teacher in teachers]
        if any(value.shape != buffer.shape for _, value in values):
            raise UnsupportedError(
                f"{name} is no parameter and changes its size with the width, so it cannot be mapped"
            )
        buffer.copy_(sum(weight * value.to(torch.float64) for weight, value in values))  # type: ignore[arg-type]


def coupling_options(options: AlignmentOptions) -> CouplingOptions:
    """The recipe's coupling options."""
    return CouplingOptions(
        options.cost, options.preparation, options.normalise, options.solver, options.epsilon, options.mass,
        options.relaxation,
    )  # fmt: skip


def _random_model(spec: StudentSpec, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    with quiet_transformers(errors=False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = untie(as_configured(model_class(spec.config)(copy.deepcopy(spec.config))))
    return cast(PreTrainedModel, model.to(dtype).eval().requires_grad_(False))

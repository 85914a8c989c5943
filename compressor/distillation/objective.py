"""The weighted sum of losses."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from compressor.anatomy.hooks import capture_outputs
from compressor.data.samples import collate
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.logit_cache import INDEX, CachedLogits, OnShare, cache_logits
from compressor.distillation.losses import LOSSES, CapturedOutputs, Loss, LossContext, LossInputs
from compressor.errors import UserError
from compressor.layer_maps import AttentionPair, LayerMap
from compressor.models.inputs import pad_id, pass_options
from compressor.models.tasks.table import task_logits, task_of_model
from compressor.models.tasks.task import Task
from compressor.recipe import FinetuneOptions, LossOptions
from compressor.utils import distributed

#: Losses on what a model answers.
_ANSWERS = ("logits", "labels")


@dataclass(frozen=True)
class LossTerm:
    """One loss of a batch: factor, mean (a scalar), positions that count."""

    weight: float
    mean: Tensor
    positions: int


@dataclass(frozen=True)
class FeatureTargets:
    """Places to compare in student and teachers, if known."""

    layer_maps: Sequence[LayerMap] = ()
    attention_pairs: Sequence[AttentionPair] = ()

    def of_teachers(self, indices: Sequence[int]) -> FeatureTargets:
        """Targets of some teachers."""
        return FeatureTargets(
            [
                replace(
                    layer_map,
                    layers=tuple(layer_map.layers[k] for k in indices),
                    pushes=tuple(layer_map.pushes[k] for k in indices),
                )
                for layer_map in self.layer_maps
            ],
            [replace(pair, teachers=tuple(pair.teachers[k] for k in indices)) for pair in self.attention_pairs],
        )


class Objective:
    """Σ weight · loss, in nats (hidden states: as a share of their energy).

    Teachers run only if a loss needs them: once per batch, without gradients, in bfloat16 on a GPU that has it.

    Raises:
        UserError: unknown loss, or missing targets.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        ensemble: Sequence[tuple[PreTrainedModel, float]],
        options: FinetuneOptions,
        targets: FeatureTargets | None = None,
        mixing: float = 1.0,
    ) -> None:
        ensemble = ensemble if options.asks_teachers else []
        self.teachers = [teacher for teacher, _ in ensemble]
        self.options = options
        self.collate = partial(collate, pad=pad_id(student.config))
        self._task = task_of_model(student)
        self._pass_options = pass_options(student)
        targets = targets or FeatureTargets()
        context = LossContext(
            self._task,
            [weight for _, weight in ensemble],
            distillation_temperature(options, self._task),
            targets.layer_maps,
            targets.attention_pairs,
            mixing,
        )
        losses: dict[str, tuple[LossOptions, Loss]] = {
            name: (term, LOSSES.get(name)(context)) for name, term in options.all_losses().items() if term.weight > 0
        }
        self._losses = list(losses.values())
        #: What validates: the answers, to which streams and attention are means.
        self._judging = [losses[name] for name in _ANSWERS if name in losses] or self._losses
        #: One per teacher, once `cache_teacher_logits` has been called.
        self._cached: list[CachedLogits] = []
        self._modules = _union([loss.modules for _, loss in self._losses])
        self._teacher_modules = [
            _union([loss.teacher_modules[k] for _, loss in self._losses if loss.teacher_modules])
            for k in range(len(self.teachers))
        ]

    def counts(self, batch: Mapping[str, Tensor]) -> list[int]:
        """Positions that each loss counts."""
        inputs, labels, _ = _split_batch(batch)
        return [loss.count(inputs, labels) for _, loss in self._losses]

    def terms(
        self, model: torch.nn.Module, batch: Mapping[str, Tensor], done: float | None = None
    ) -> tuple[list[LossTerm], Any]:
        """The losses of a batch, and the model's outputs.

        Args:
            batch: inputs [B, ...] and "labels".
            done: share of the training done; None for validation, which is by the answers where the training is.
        """
        inputs, labels, indices = _split_batch(batch)
        active = [
            (term.weight if done is None else term.at(done), loss)
            for term, loss in (self._losses if done is not None else self._judging)
        ]
        teacher_logits, teacher_outputs = self._run_teachers(inputs, indices)
        # DistributedDataParallel holds the model as `module`.
        with capture_outputs(getattr(model, "module", model), self._modules) as student_outputs:
            outputs = model(**inputs, **self._pass_options)
        # Sharded weights in half precision give logits in half precision.
        logits = task_logits(self._task, outputs, inputs, "the student").float()
        loss_inputs = LossInputs(inputs, logits, labels, teacher_logits, student_outputs, teacher_outputs)
        terms = [
            LossTerm(weight, loss.mean(loss_inputs) if weight else logits.new_zeros(()), loss.count(inputs, labels))
            for weight, loss in active
        ]
        return terms, outputs

    def loss(
        self,
        model: torch.nn.Module,
        batch: Mapping[str, Tensor],
        done: float = 0.0,
        totals: Sequence[float] | None = None,
    ) -> tuple[Tensor, Any]:
        """The weighted sum for a batch, a scalar, and the model's outputs.

        Args:
            totals: `counts` of the whole batch if this is a part; the parts' losses then add up.
        """
        terms, outputs = self.terms(model, batch, done)
        shares = [1.0] * len(terms)
        if totals is not None:
            shares = [term.positions / max(total, 1) for term, total in zip(terms, totals, strict=True)]
        parts = [share * term.weight * term.mean for share, term in zip(shares, terms, strict=True)]
        return torch.stack(parts).sum(), outputs

    def evaluate(self, model: torch.nn.Module, samples: TrainingSamples, device: torch.device | None = None) -> float:
        """The weighted sum over all samples, in eval mode; losses are means over all positions.

        Args:
            samples: shared by all processes.
            device: default: that of the weights, which may be sharded elsewhere.

        Raises:
            UserError: labels are the only loss, and none is known.
        """
        model.eval()
        size = self.options.batch_size // self.options.parts
        all_starts = range(0, len(samples), size)
        starts = list(all_starts[distributed.rank() :: distributed.world_size()])
        # Sharded weights need as many rounds in every process: the first batch again, which is not counted.
        counted, rounds = len(starts), math.ceil(len(all_starts) / distributed.world_size())
        starts += [0] * (rounds - counted)
        batches: DataLoader[Any] = DataLoader(
            samples,  # type: ignore[arg-type]
            batch_sampler=[list(range(start, min(start + size, len(samples)))) for start in starts],
            collate_fn=self.collate,
        )
        sums, counts = [0.0] * len(self._losses), [0.0] * len(self._losses)
        device = device or next(model.parameters()).device
        with torch.no_grad():
            for turn, batch in enumerate(batches):
                terms, _ = self.terms(model, {name: value.to(device) for name, value in batch.items()})
                for index, term in enumerate(terms if turn < counted else ()):
                    sums[index] += term.weight * term.mean.item() * term.positions
                    counts[index] += term.positions
        sums, counts = (distributed.all_sum(values, device) for values in (sums, counts))
        if not any(counts):
            raise UserError(f"none of the {len(samples)} samples to judge by has a known label: name data with more")
        return sum(total / max(count, 1) for total, count in zip(sums, counts, strict=True))

    def cache_teacher_logits(self, samples: TrainingSamples, folder: Path, progress: OnShare | None = None) -> None:
        """Cache and use the teachers' logits of all `logit_cache.IndexedSamples`.

        Raises:
            UserError: the logits cannot be written.
        """
        self._cached = [
            cache_logits(
                teacher,
                samples,
                partial(self._teacher_logits, teacher),
                folder,
                batch_size=self.options.batch_size // self.options.parts,
                collate=self.collate,
                positions=self._task.positions,
                progress=None if progress is None else partial(_report_share, progress, index, len(self.teachers)),
            )
            for index, teacher in enumerate(self.teachers)
        ]

    def _logits(self, teacher: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        return task_logits(self._task, teacher(**inputs, **self._pass_options), inputs, type(teacher).__name__)

    def _teacher_logits(self, teacher: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
        inputs, _, _ = _split_batch({name: value.to(teacher.device) for name, value in batch.items()})
        with torch.inference_mode(), teacher_autocast(teacher.device):
            logits = self._logits(teacher, inputs)
            return self._task.counted(logits, inputs)

    def _run_teachers(
        self, inputs: Mapping[str, Tensor], indices: Sequence[int]
    ) -> tuple[list[Tensor], list[CapturedOutputs]]:
        """Teacher logits that count, and captured outputs."""
        if self._cached:
            device = next(iter(inputs.values())).device
            return [cached.of(indices).to(device) for cached in self._cached], [{} for _ in self._cached]
        all_logits: list[Tensor] = []
        all_outputs: list[CapturedOutputs] = []
        for teacher, modules in zip(self.teachers, self._teacher_modules, strict=True):
            with (
                torch.inference_mode(),
                teacher_autocast(teacher.device),
                capture_outputs(teacher, modules) as outputs,
            ):
                logits = self._logits(teacher, inputs)
                all_logits.append(self._task.counted(logits, inputs).float())
            all_outputs.append(outputs)
        return all_logits, all_outputs


def distillation_temperature(options: FinetuneOptions, task: Task) -> float:
    """The temperature of the options, or the task's."""
    return task.temperature if options.temperature == "auto" else options.temperature


def teacher_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 on a GPU that has it."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


def _split_batch(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None, list[int]]:
    """Inputs, labels and sample indices, if any."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", INDEX)}
    return inputs, batch.get("labels"), batch[INDEX].tolist() if INDEX in batch else []


def _report_share(progress: OnShare, before: int, count: int, share: float) -> None:
    progress((before + share) / count)


def _union(lists: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))

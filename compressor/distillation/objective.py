"""The loss of a finetune, the same for training and for judging: the recipe's losses, weighed."""

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
from compressor.data.collate import collate
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.logit_cache import INDEX, CachedLogits, OnShare, cache_logits
from compressor.distillation.losses import LOSSES, CapturedOutputs, Loss, LossContext, LossInputs
from compressor.errors import UserError
from compressor.layer_maps import AttentionPair, LayerMap
from compressor.models.inputs import pad_id, pass_options
from compressor.models.tasks import Task, task_of_model
from compressor.recipe import FinetuneOptions, LossOptions
from compressor.utils import distributed


@dataclass(frozen=True)
class LossTerm:
    """One part of the loss of a batch.

    Attributes:
        weight: by which it enters the loss.
        mean: over the positions that it looks at, a scalar; 0 if there are none.
        positions: how many these are.
    """

    weight: float
    mean: Tensor
    positions: int


@dataclass(frozen=True)
class FeatureTargets:
    """Where a student and its teachers are comparable, beside their answers.

    Attributes:
        passages: the residual streams; () where the student was not fused.
        relations: the attention; () where it is not known.
    """

    passages: Sequence[LayerMap] = ()
    relations: Sequence[AttentionPair] = ()

    def of(self, kept: Sequence[int]) -> FeatureTargets:
        """The same of some of the teachers, by their places."""
        return FeatureTargets(
            [
                replace(one, layers=tuple(one.layers[k] for k in kept), pushes=tuple(one.pushes[k] for k in kept))
                for one in self.passages
            ],
            [replace(one, teachers=tuple(one.teachers[k] for k in kept)) for one in self.relations],
        )


class Objective:
    """Σ weight · loss over the losses of the recipe, in nats (hidden states: as a share of their energy).

    Args:
        student: whose task says which positions count.
        ensemble: teachers with their weights; they see each batch once for all losses, without gradients, in bfloat16
            on a GPU that has it.  Not looked at if no loss asks them.
        options: losses, weights and temperature.
        comparison: of the student and the ensemble.

    Raises:
        UserError: no loss has such a name, or one needs what is not known.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        ensemble: Sequence[tuple[PreTrainedModel, float]],
        options: FinetuneOptions,
        comparison: FeatureTargets | None = None,
    ) -> None:
        asked = options.asks_teachers
        self.teachers = [teacher for teacher, _ in ensemble] if asked else []
        self.options = options
        self.collate = partial(collate, pad=pad_id(student.config))
        self._task = task_of_model(student)
        self._pass_options = pass_options(student)
        known = comparison or FeatureTargets()
        weights = [weight for _, weight in ensemble] if asked else []
        setting = LossContext(self._task, weights, temperature(options, self._task), known.passages, known.relations)
        self._losses: list[tuple[LossOptions, Loss]] = [
            (one, LOSSES.get(name)(setting)) for name, one in options.all_losses().items() if one.weight > 0
        ]
        #: The teachers' logits, where they are kept.
        self._kept: list[CachedLogits] = []
        self._modules = _merged([loss.modules for _, loss in self._losses])
        self._teachers_modules = [
            _merged([loss.teachers_modules[k] for _, loss in self._losses if loss.teachers_modules])
            for k in range(len(self.teachers))
        ]

    def counts(self, batch: Mapping[str, Tensor]) -> list[int]:
        """How many positions of a batch each loss looks at."""
        inputs, labels, _ = _apart(batch)
        return [loss.count(inputs, labels) for _, loss in self._losses]

    def terms(
        self, model: torch.nn.Module, batch: Mapping[str, Tensor], done: float | None = None
    ) -> tuple[list[LossTerm], Any]:
        """The parts of the loss of a batch, and the model's outputs.

        Args:
            model: the student, or what wraps it, in the mode that it is wanted in.
            batch: model inputs [B, ...], and "labels" where they are asked for.
            done: the share of the training that is done, by which weights decay; None for judging, where what decays
                does not count unless there is nothing else.
        """
        inputs, labels, indices = _apart(batch)
        lasting = [one for one, _ in self._losses if one.decay is None]
        wanted = [
            (one.weight if done is None else one.at(done), loss)
            for one, loss in self._losses
            if done is not None or one.decay is None or not lasting
        ]
        opinions, teachers_watched = self._ask(inputs, indices)
        # What several processes wrap a model in has it under this name.
        with capture_outputs(getattr(model, "module", model), self._modules) as watched:
            outputs = model(**inputs, **self._pass_options)
        # Of weights that are shared in half precision they would be of that.
        logits = outputs.logits.float()
        seen = LossInputs(inputs, logits, labels, opinions, watched, teachers_watched)
        terms = [
            LossTerm(weight, loss.mean(seen) if weight else logits.new_zeros(()), loss.count(inputs, labels))
            for weight, loss in wanted
        ]
        return terms, outputs

    def loss(
        self,
        model: torch.nn.Module,
        batch: Mapping[str, Tensor],
        done: float = 0.0,
        totals: Sequence[float] | None = None,
    ) -> tuple[Tensor, Any]:
        """The loss of a batch, a scalar, and the model's outputs.

        Args:
            model, batch, done: as of `terms`.
            totals: where the batch is part of a larger one, the positions of each loss in that, as `counts` counts
                them; the losses of the parts then add up to that of the whole.
        """
        terms, outputs = self.terms(model, batch, done)
        shares = [1.0] * len(terms)
        if totals is not None:
            shares = [term.positions / max(total, 1) for term, total in zip(terms, totals, strict=True)]
        parts = [share * term.weight * term.mean for share, term in zip(shares, terms, strict=True)]
        return torch.stack(parts).sum(), outputs

    def judge(self, model: torch.nn.Module, samples: TrainingSamples, device: torch.device | None = None) -> float:
        """The loss over all samples, in eval mode: each term is the mean over the positions of all batches.

        Args:
            model: the student; left in eval mode.
            samples: read in order, in batches as large as the parts of the training's; several processes share them.
            device: where the model computes; None where its weights are, which those that are shared need not be.

        Raises:
            UserError: labels are all there is to learn from, and none is known.
        """
        model.eval()
        size = self.options.batch_size // self.options.parts
        everything = range(0, len(samples), size)
        starts = list(everything[distributed.rank() :: distributed.world_size()])
        # All go through as many, as weights that are shared ask of them; what is over counts nothing.
        own, rounds = len(starts), math.ceil(len(everything) / distributed.world_size())
        starts += [0] * (rounds - own)
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
                for index, term in enumerate(terms if turn < own else ()):
                    sums[index] += term.weight * term.mean.item() * term.positions
                    counts[index] += term.positions
        sums, counts = (distributed.all_sum(values, device) for values in (sums, counts))
        if not any(counts):
            raise UserError(f"none of the {len(samples)} samples to judge by has a known label: name data with more")
        return sum(total / max(count, 1) for total, count in zip(sums, counts, strict=True))

    def keep(self, samples: TrainingSamples, folder: Path, told: OnShare | None = None) -> None:
        """Keep the teachers' logits of all samples, and take them from there from now on.

        Args:
            samples: whose batches say which samples they are made of (`compressor.distillation.logit_cache.INDEX`).
            folder, told: as of `compressor.distillation.logit_cache.keep`.

        Raises:
            UserError: they cannot be kept.
        """
        self._kept = [
            cache_logits(
                teacher,
                samples,
                partial(self._opinion, teacher),
                folder,
                batch_size=self.options.batch_size // self.options.parts,
                collate=self.collate,
                mask=self._task.mask,
                told=None if told is None else partial(_told_of_all, told, index, len(self.teachers)),
            )
            for index, teacher in enumerate(self.teachers)
        ]

    def _opinion(self, teacher: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
        inputs, _, _ = _apart({name: value.to(teacher.device) for name, value in batch.items()})
        with torch.inference_mode(), lower_precision(teacher.device):
            return self._task.counted(teacher(**inputs, **self._pass_options).logits, inputs)

    def _ask(self, inputs: Mapping[str, Tensor], indices: Sequence[int]) -> tuple[list[Tensor], list[CapturedOutputs]]:
        """The teachers' logits that count, and what is watched of them."""
        if self._kept:
            device = next(iter(inputs.values())).device
            return [kept.of(indices).to(device) for kept in self._kept], [{} for _ in self._kept]
        opinions: list[Tensor] = []
        seen: list[CapturedOutputs] = []
        for teacher, modules in zip(self.teachers, self._teachers_modules, strict=True):
            with torch.inference_mode(), lower_precision(teacher.device), capture_outputs(teacher, modules) as watched:
                logits = teacher(**inputs, **self._pass_options).logits
                opinions.append(self._task.counted(logits, inputs).float())
            seen.append(watched)
        return opinions, seen


def temperature(options: FinetuneOptions, task: Task) -> float:
    """The temperature of a distillation: the one that is asked for, else the task's."""
    return task.temperature if options.temperature == "auto" else options.temperature


def lower_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where a GPU has it: a teacher is only read, and half the bytes are read twice as fast."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


def _apart(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None, list[int]]:
    """The inputs of a batch, its labels, and which samples it is made of, where it says so."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", INDEX)}
    return inputs, batch.get("labels"), batch[INDEX].tolist() if INDEX in batch else []


def _told_of_all(told: OnShare, before: int, count: int, share: float) -> None:
    told((before + share) / count)


def _merged(lists: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))

"""`compressor.finetune` and `compressor.distill`: the training of a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from compressor.api.call import answered

if TYPE_CHECKING:
    from pathlib import Path

    from compressor.api.kinds import Data
    from compressor.api.models import ModelLike, ModelsLike
    from compressor.api.sections import Columns, LossKeys
    from compressor.api.student import FinetunedStudent
    from compressor.distillation.distill import FinetuneReport
    from compressor.layer_maps import LayerMap
    from compressor.recipe.fusion import ClassesName

#: Called with the step, the number of steps and the loss.
OnTrainingStep = Callable[[int, int, float], None]


@answered
def finetune(
    student: ModelLike, teachers: ModelsLike | None = None, data: Data = None, *,
    work_dir: str | Path | None = None, resume: bool = False, device: str = "cpu", seed: int = 0,
    teacher_weights: Sequence[float] | None = None, classes: ClassesName = "same", revision: str | None = None,
    trust_remote_code: bool = False, processor: Any = None,
    progress: OnTrainingStep | None = None, passages: Sequence[LayerMap] = (),
    steps: int = 200, batch_size: int = 128, accumulate: Literal["auto"] | int = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32", recompute: bool = False,
    tensorboard: str | None = None, augment: str = "none", learning_rate: Literal["search"] | float = 3e-4,
    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3), search_steps: int | None = None,
    validation: float = 0.05, validate_every: int | None = None, patience: int | None = None, warmup: float = 0.1,
    weight_decay: float = 0.01, temperature: Literal["auto"] | float = "auto", distil_weight: float = 1.0,
    label_weight: float = 0.0, losses: Literal["auto"] | Mapping[str, float | LossKeys] = "auto",
    cache_logits: bool = False, checkpoint_every: int = 50,
    train_split: str | None = None, image_column: str | None = None, label_column: str | None = None,
    text_column: Columns = None, target_column: str | None = None, max_length: int | None = None,
    prompt: str | None = None,
) -> FinetunedStudent:  # fmt: skip
    """Train a student on its teachers' mean prediction, on labels, or on both; a model object is trained in place.

    Args:
        student: a result of `fuse`, a model, or a name.
        teachers: as in `fuse`; those of the fusion if omitted; none with `distil_weight=0`.
        data: samples as in `fuse`, with labels for `label_weight` above 0; built-in teachers bring their own.
        work_dir: of checkpoints to resume from; a temporary folder if omitted.
        resume: continue from the newest checkpoint in `work_dir`.
        device: "cpu", or the first GPU as "cuda".
        seed: of the order of the samples.
        teacher_weights: one per teacher; equal if omitted.
        classes: anything but "same" allows teachers of other classes, matched by name with those of the student.
        revision: branch, tag or commit of the Hub for teachers that have none in their names, `user/model@revision`.
        trust_remote_code: run code that lies in the models' folders (`auto_map`); read it first.
        processor: tokenizer or image processor for texts or images; the models' own if omitted.
        progress: called with the step, the number of steps and the loss.
        passages: `.passages` of the student's fusion, for the loss `hidden`; known for a result of `fuse`.
        steps, batch_size, …, checkpoint_every: the recipe's section `finetune`.
        train_split, image_column, …, max_length, prompt: the recipe's section `data`.

    Returns:
        The student as `.model`, steps and losses as `.report`; `.save(folder)` writes it.

    Raises:
        UserError: unusable models, data or options, or a loss that is not finite.
    """
    arguments = {**locals(), "call": "finetune"}
    from compressor.api.finetune_job import run_finetune

    return run_finetune(arguments)


@answered
def distill(
    student: ModelLike, teachers: ModelsLike, train: Data, *, work_dir: str | Path,
    weights: Sequence[float] | None = None, seed: int = 0, resume: bool = False, device: str = "cpu",
    progress: OnTrainingStep | None = None, passages: Sequence[LayerMap] = (),
    steps: int = 200, batch_size: int = 128, accumulate: Literal["auto"] | int = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32", recompute: bool = False,
    tensorboard: str | None = None, augment: str = "none", learning_rate: Literal["search"] | float = 3e-4,
    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3), search_steps: int | None = None,
    validation: float = 0.05, validate_every: int | None = None, patience: int | None = None, warmup: float = 0.1,
    weight_decay: float = 0.01, temperature: Literal["auto"] | float = "auto", distil_weight: float = 1.0,
    label_weight: float = 0.0, losses: Literal["auto"] | Mapping[str, float | LossKeys] = "auto",
    cache_logits: bool = False, checkpoint_every: int = 50,
) -> FinetuneReport:  # fmt: skip
    """The same as `finetune`, which has more; returns its report alone.

    Args:
        train: samples as in `finetune`; a torch Dataset is read as it is trained on.
        work_dir: of the checkpoints.
        weights: one per teacher; equal if omitted.

    Raises:
        UserError: see `finetune`.
    """
    arguments = dict(locals())
    data, weights = arguments.pop("train"), arguments.pop("weights")
    renamed = {"data": data, "teacher_weights": weights, "processor": None, "classes": "same", "revision": None}
    renamed["trust_remote_code"] = False
    renamed["call"] = "distill"
    from compressor.api.finetune_job import run_finetune

    return run_finetune({**arguments, **renamed}).report

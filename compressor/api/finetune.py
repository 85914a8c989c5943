"""`compressor.finetune` and `compressor.distill`: the training of a student."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressor.api.call import answered
from compressor.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compressor.api.kinds import Data, GivenData
    from compressor.api.models import ModelLike, ModelsLike
    from compressor.api.sections import Columns, LossKeys
    from compressor.api.student import FinetunedStudent, FusedStudent
    from compressor.distillation.distill import FinetuneReport
    from compressor.layer_maps import LayerMap
    from compressor.models.teacher import Teacher
    from compressor.recipe import Recipe

#: Called with the step, the number of steps and the loss.
OnTrainingStep = Callable[[int, int, float], None]


@answered
def finetune(
    student: ModelLike, teachers: ModelsLike | None = None, data: Data = None, *,
    work_dir: str | Path | None = None, resume: bool = False, device: str = "cpu", seed: int = 0,
    teacher_weights: Sequence[float] | None = None, processor: Any = None, progress: OnTrainingStep | None = None,
    passages: Sequence[LayerMap] = (),
    steps: int = 200, batch_size: int = 128, accumulate: Literal["auto"] | int = "auto",
    precision: Literal["float32", "bfloat16", "float16"] = "float32", recompute: bool = False,
    tensorboard: str | None = None, augment: str = "none", learning_rate: Literal["search"] | float = 3e-4,
    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3), search_steps: int | None = None,
    validation: float = 0.05, validate_every: int | None = None, patience: int | None = None, warmup: float = 0.1,
    weight_decay: float = 0.01, temperature: Literal["auto"] | float = "auto", distil_weight: float = 1.0,
    label_weight: float = 0.0, losses: Mapping[str, float | LossKeys] | None = None, cache_logits: bool = False,
    checkpoint_every: int = 50,
    train_split: str | None = None, image_column: str | None = None, label_column: str | None = None,
    text_column: Columns = None, target_column: str | None = None, max_length: int | None = None,
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
        processor: tokenizer or image processor for texts or images; the models' own if omitted.
        progress: called with the step, the number of steps and the loss.
        passages: `.passages` of the student's fusion, for the loss `hidden`; known for a result of `fuse`.
        steps, batch_size, …, checkpoint_every: the recipe's section `finetune`.
        train_split, image_column, …, max_length: the recipe's section `data`.

    Returns:
        The student as `.model`, steps and losses as `.report`; `.save(folder)` writes it.

    Raises:
        UserError: unusable models, data or options, or a loss that is not finite.
    """
    return _finetune({**locals(), "call": "finetune"})


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
    label_weight: float = 0.0, losses: Mapping[str, float | LossKeys] | None = None, cache_logits: bool = False,
    checkpoint_every: int = 50,
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
    renamed = {"data": data, "teacher_weights": weights, "processor": None, "call": "distill"}
    return _finetune({**arguments, **renamed}).report


@dataclass(frozen=True)
class _Job:
    """A finetune whose arguments were checked."""

    student: str | PreTrainedModel
    teachers: Sequence[str | PreTrainedModel]
    fused: FusedStudent | None
    given: GivenData
    recipe: Recipe
    processor: Any

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> _Job:
        """Check the arguments by their types alone."""
        from compressor.api.kinds import kind_of_data
        from compressor.api.models import list_models, names_of, one_model
        from compressor.api.student import FusedStudent, default_data

        given_student, call = arguments["student"], arguments["call"]
        fused = given_student if isinstance(given_student, FusedStudent) else getattr(given_student, "fused", None)
        student = one_model(given_student, f"{call}: student")
        if arguments["teachers"] is None and fused is not None:
            teachers: list[str | PreTrainedModel] = [teacher.model for teacher in fused.origin.teachers]
        elif arguments["teachers"] is None:
            raise UserError(f"{call}: teachers is missing: name them, or give [] with distil_weight=0 and labels")
        else:
            fused = None
            teachers = list_models(arguments["teachers"], f"{call}: teachers", empty=True)
        data = arguments["data"]
        if data is None:
            data = default_data([given_student] if fused else arguments["teachers"])
        given = kind_of_data(data, f"{call}: data")
        recipe = _recipe(arguments, _student_name(student), names_of(teachers), fused, given)
        if not teachers and recipe.finetune.asks_teachers:
            raise UserError(f"{call}: there are no teachers: name one, or give distil_weight=0 to learn labels alone")
        return cls(student, teachers, fused, given, recipe, arguments["processor"])

    @property
    def models(self) -> list[str | PreTrainedModel]:
        """The student and what is to be loaded with it."""
        return [self.student, *([] if self.fused else self.teachers)]

    def load(self) -> tuple[Teacher, list[Teacher]]:
        """The student and the teachers; those of a fusion are there already."""
        from compressor.api.models import load_models

        (student,) = load_models([self.student], names=[_student_name(self.student)], processor=self.processor)
        if self.fused is not None:
            return student, list(self.fused.origin.teachers)
        return student, load_models(self.teachers, processor=self.processor)


def _student_name(student: str | PreTrainedModel) -> str:
    return student if isinstance(student, str) else "the student"


def _recipe(
    arguments: Mapping[str, Any], student: str, teachers: Sequence[str], fused: FusedStudent | None, given: GivenData
) -> Recipe:
    """The recipe of the finetune, or of the fusion with it."""
    from compressor.api.keywords import keyword_names, recipe_sections
    from compressor.recipe import build_recipe

    sections = recipe_sections(arguments, "finetune", "data")
    keywords = keyword_names(sections)
    data = sections["data"] | {"source": given.value if given.kind == "source" else None}
    common = {"finetune": sections["finetune"], "device": arguments["device"]}
    if fused is not None:
        values = fused.origin.recipe.model_dump() | common
        values["data"] = data if given.kind == "source" else values["data"]
    else:
        # A recipe needs a teacher, labels alone need none.
        values = {"teachers": list(teachers) or [student], "student": student, "data": data, "seed": arguments["seed"]}
        values |= common
    return build_recipe(values, where=arguments["call"], names=keywords)


def _train(
    arguments: Mapping[str, Any],
    recipe: Recipe,
    student: Teacher,
    teachers: Sequence[Teacher],
    train: Any,
    fused: FusedStudent | None,
) -> FinetuneReport:
    from compressor.distillation.distill import train_student
    from compressor.distillation.objective import FeatureTargets
    from compressor.layer_maps import attention_pairs_of
    from compressor.pipeline.initial_student import layer_maps_between

    passages = arguments["passages"] or (fused.passages if fused else layer_maps_between(student, teachers))
    relations = "relations" in recipe.finetune.losses
    configs = [teacher.config for teacher in teachers]
    pairs = attention_pairs_of(student.config, configs) if relations else ()
    weights = arguments["teacher_weights"] or (recipe.fusion.weights if recipe.fusion.weights != "auto" else None)
    with ExitStack() as stack:
        folder = arguments["work_dir"] or stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-"))
        return train_student(
            student.model,
            [teacher.model for teacher in teachers],
            [1.0] * len(teachers) if weights is None else list(weights),
            train,
            recipe.finetune,
            seed=arguments["seed"],
            work_dir=Path(folder),
            resume=arguments["resume"],
            device=arguments["device"],
            progress=arguments["progress"],
            targets=FeatureTargets(passages, pairs),
        )


def _finetune(arguments: Mapping[str, Any]) -> FinetunedStudent:
    """Check everything that needs no network, then load, read and train."""
    from compressor.api.fuse import unnamed
    from compressor.api.models import check_names
    from compressor.api.samples import DataReader, check_source
    from compressor.api.student import FinetunedStudent, Origin

    if arguments["resume"] and arguments["work_dir"] is None:
        raise UserError(f"{arguments['call']}: resume needs work_dir, the folder of the interrupted run")
    job = _Job.of(arguments)
    check_names(job.models)
    check_source(job.given)
    student, teachers = job.load()
    fused, recipe = job.fused, job.recipe
    train = DataReader(job.given, teachers or [student], recipe, f"{arguments['call']}: data").training()
    report = _train(arguments, recipe, student, teachers, train, fused)
    seconds = {**(fused.origin.seconds if fused else {}), "finetune": report.seconds}
    remarks = unnamed([*teachers, *([] if fused else [student])], job.given)
    if fused is not None and arguments["seed"] != recipe.seed:
        remarks.append(f"the finetune's seed was {arguments['seed']}, and the recipe's is the fusion's, {recipe.seed}")
    warnings, calibration = (fused.origin.warnings, fused.origin.calibration) if fused else ((), ())
    origin = Origin(recipe, teachers, warnings, remarks, seconds, calibration)
    return FinetunedStudent(student.model, report, origin, fused, None if fused else student)

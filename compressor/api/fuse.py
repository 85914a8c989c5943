"""`compressor.fuse`: teachers to a student."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from compressor.api.call import answered
from compressor.errors import FusionWarning, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compressor.api.kinds import Data, GivenData
    from compressor.api.models import ModelLike, ModelsLike
    from compressor.api.sections import AlignmentKeys, Columns, NarrowingName
    from compressor.api.student import FusedStudent, Origin
    from compressor.fusion import FusionResult
    from compressor.models.teacher import Teacher
    from compressor.recipe import Recipe
    from compressor.recipe.fusion import ClassesName, EffortName, GridName, MixtureName, PreferName

#: Called with the share done and a line.
OnFusionProgress = Callable[[float, str], None]


@answered
def fuse(
    teachers: ModelsLike, width: float | None = 0.5, calibration: Data = None, *, data: Data = None,
    depth: float | int | None = None, anchor: ModelLike | None = None, preset: str | None = None, seed: int = 0,
    revision: str | None = None, trust_remote_code: bool = False, processor: Any = None,
    progress: OnFusionProgress | None = None,
    residual: str = "auto", narrowing: NarrowingName = "auto", prefer: PreferName = "balanced",
    hidden: float | None = None, ffn: float | None = None, heads: float | None = None,
    part: Mapping[str, float] | None = None, grid: GridName = "auto", inner: str = "auto",
    alignment: AlignmentKeys | None = None, weights: Literal["auto", "equal"] | Sequence[float] = "auto",
    mixture: MixtureName = "auto", classes: ClassesName = "same",
    ridge: Literal["auto"] | float = "auto", polish: Literal["auto"] | int = "auto", effort: EffortName = "normal",
    keep_dim: bool = False, refit: bool = True, max_memory: int | str | None = None,
    samples: int = 1024, batch_size: int = 128, holdout: float = 0.125,
    train_split: str | None = None, image_column: str | None = None, label_column: str | None = None,
    text_column: Columns = None, target_column: str | None = None, max_length: int | None = None,
    prompt: str | None = None,
) -> FusedStudent:  # fmt: skip
    """Fuse teachers into one student of `width` times the residual width of the widest.

    Args:
        teachers: one or several of one model type: folders, built-in names, Hub ids or models; not changed.
        width: share of the residual width, in (0, 1].
        calibration: unlabelled samples: a name or path as in `--data`, a list of texts or PIL images, a
            `datasets.Dataset`, or a DataLoader or list of batches; None aligns the weights alone, which costs accuracy.
        data: the same by the command's name.
        depth: share of the deepest teacher's layers, or a number of layers; None for all.
        anchor: a trained narrow model that gives the student its shape and coordinates.
        preset: a name in `compressor.presets`, whose values the other keywords replace.
        seed: of every random choice.
        revision: branch, tag or commit of the Hub for teachers that have none in their names, `user/model@revision`.
        trust_remote_code: run code that lies in the models' folders (`auto_map`); read it first.
        processor: tokenizer or image processor for texts or images; the teachers' own if omitted.
        progress: called with fraction and message.
        residual, narrowing, prefer, hidden, ffn, heads, part, grid, inner, alignment, weights, mixture, classes,
            ridge, polish, effort, keep_dim, refit: the recipe's section `fusion`.
        max_memory: such as "8GB": teachers, then local folders, are read layer by layer, and nothing is chosen by
            pilots.
        samples, batch_size, holdout: the section `calibration`; of a list of batches all are used.
        train_split, image_column, label_column, text_column, target_column, max_length, prompt: the section `data`.

    Returns:
        The student as `.model`, its shape as `.target`, choices and couplings as `.report`; `.save(folder)` writes it.

    Raises:
        UserError: unusable names, samples or options, or teachers that do not fit together.
    """
    return _fuse(locals())


def _fuse(arguments: Mapping[str, Any]) -> FusedStudent:
    """Check everything that needs no network, then load, read and fuse."""
    from compressor.api.models import check_names, fitted_together, list_models, load_models, names_of, one_model
    from compressor.api.samples import DataReader, check_source
    from compressor.api.student import FusedStudent
    from compressor.fusion.classes import fit_lacking_classes

    models = list_models(arguments["teachers"], "fuse: teachers", revision=arguments["revision"])
    anchor = None if arguments["anchor"] is None else one_model(arguments["anchor"], "fuse: anchor")
    given = _calibration(arguments)
    recipe = _recipe(arguments, names_of(models), None if anchor is None else names_of([anchor])[0], given)
    check_names([*models, *([] if anchor is None else [anchor])])
    check_source(given)
    streamed = recipe.fusion.max_memory is not None
    if streamed:
        _check_streamed(models, anchor, recipe)
    teachers = load_models(models, processor=arguments["processor"], streamed=streamed)
    teachers = fitted_together(teachers, recipe.fusion.classes)
    batches = None if given is None else DataReader(given, teachers, recipe, "fuse: calibration").calibration()
    remarks = fit_lacking_classes(teachers, batches)
    own = next((teacher for teacher in teachers if teacher.name == anchor), None)
    narrow = own if own is not None or anchor is None else load_models([anchor])[0]
    result, lines = _run(recipe, teachers, narrow, batches, arguments["progress"])
    remarks += unnamed(teachers, given)
    origin = _origin(recipe, teachers, remarks, batches, result, lines)
    return FusedStudent(result.model, result.target, result.anatomy, result.report, result.passages, origin=origin)


def _check_streamed(models: Sequence[str | PreTrainedModel], anchor: Any, recipe: Recipe) -> None:
    """Refuse what cannot be read layer by layer.

    Raises:
        UserError: models in memory or on the Hub, or options that need whole models.
    """
    from compressor.fusion.streaming import fixed_options
    from compressor.pipeline.run.streaming import check_folders

    names = [model for model in models if isinstance(model, str)]
    if len(names) < len(models) or anchor is not None:
        raise UserError("fuse: max_memory reads teachers from folders: give their names, and no model nor anchor")
    fixed_options(recipe.fusion)
    check_folders(names)


def _calibration(arguments: Mapping[str, Any]) -> GivenData | None:
    from compressor.api.kinds import kind_of_data

    width = arguments["width"]
    if (isinstance(width, str) and not _is_number(width)) or hasattr(width, "state_dict"):
        given = f"'{width}'" if isinstance(width, str) else f"a {type(width).__name__}"
        raise UserError(
            f"fuse: width is {given} and no number: several teachers go into a list, fuse([a, b], width=0.5)"
        )
    both = [name for name in ("calibration", "data") if arguments[name] is not None]
    if len(both) > 1:
        raise UserError("fuse: calibration and data are two names of the same: leave one out")
    return kind_of_data(arguments[both[0]], f"fuse: {both[0]}", arguments["samples"]) if both else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _recipe(arguments: Mapping[str, Any], names: Sequence[str], anchor: str | None, given: GivenData | None) -> Recipe:
    """The fusion's recipe, as far as it can name what is given."""
    from compressor.api.keywords import keyword_names, recipe_sections
    from compressor.recipe import build_recipe

    sections = recipe_sections(arguments, "fusion", "calibration", "data")
    keywords = keyword_names(sections)
    values: dict[str, Any] = {**sections}
    values["fusion"]["anchor"] = anchor
    values["data"]["source"] = given.value if given is not None and given.kind == "source" else None
    values |= {"teachers": list(names), "finetune": {"enabled": False}}
    values |= {name: arguments[name] for name in ("depth", "seed", "trust_remote_code")}
    if arguments["width"] is not None:
        values["width"] = arguments["width"]
    return build_recipe(values, where="fuse", names=keywords)


def unnamed(teachers: Sequence[Teacher], given: GivenData | None) -> list[str]:
    """Lines on inputs that a recipe cannot name."""
    objects = [teacher.name for teacher in teachers if teacher.source.kind == "object"]
    inputs = [f"{' and '.join(objects)} (models in memory)"] if objects else []
    if given is not None and given.kind != "source":
        inputs.append(f"{given.name} (data in memory)")
    if not inputs:
        return []
    return [f"made in Python from {' and '.join(inputs)}: a recipe cannot name that, so this one makes another student"]


def _run(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    anchor: Teacher | None,
    batches: Sequence[Mapping[str, Any]] | None,
    progress: OnFusionProgress | None,
) -> tuple[FusionResult, list[str]]:
    """The fusion, and its warnings, which are given too."""
    from compressor.fusion import fuse_models
    from compressor.pipeline.run.streaming import streaming_of

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fuse_models(
            [(teacher.name, teacher.model) for teacher in teachers],
            recipe.width,
            batches,
            recipe.fusion,
            holdout=recipe.calibration.holdout,
            seed=recipe.seed,
            anchor=None if anchor is None else (anchor.name, anchor.model),
            progress=progress,
            depth=recipe.depth,
            streaming=streaming_of(recipe, [teacher.config for teacher in teachers]),
        )
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return result, [str(warning.message) for warning in caught if issubclass(warning.category, FusionWarning)]


def _origin(
    recipe: Recipe,
    teachers: Sequence[Teacher],
    remarks: Sequence[str],
    batches: tuple[dict[str, Any], ...] | None,
    result: FusionResult,
    lines: Sequence[str],
) -> Origin:
    """What the report of the student will say of its making."""
    from compressor.api.student import Origin
    from compressor.models.inputs import without_labels
    from compressor.pipeline.calibration_checks import scarcity
    from compressor.pipeline.run.initial_student import NO_DATA

    more = [NO_DATA] if batches is None else scarcity(batches, [teacher.config for teacher in teachers])
    seconds = {"fuse": result.report.seconds["total"]}
    unlabelled = tuple(without_labels(batch) for batch in batches or ())
    return Origin(recipe, teachers, [*lines, *more], remarks, seconds, unlabelled)

"""The one schema of every option: what a recipe file may say and what the command's flags mean.

A recipe is a YAML file; the flags of the command are the same fields.  Both are validated by the models below,
unknown keys are refused, and every output folder holds the resolved recipe that reproduces it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from compressor.errors import UserError
from compressor.presets import beneath

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


#: What pydantic says in terms of Python, said in terms of a recipe.
_PHRASES = {
    "missing": "this key is required",
    "too_short": "at least one is needed",
    "tuple_type": "this should be a list",
    "model_type": "this should be a section with keys of its own",
}


class Section(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DataOptions(Section):
    """Where samples and labels come from."""

    source: str | None = Field(
        None,
        description="A built-in name, a folder of images by class, parquet/csv/tsv/jsonl/txt file(s) or a folder of "
        "them, or a Hub dataset name. Built-in teachers bring their own data.",
    )
    train_split: str | None = Field(
        None, description="Split for calibration and finetuning; found by itself if omitted."
    )
    eval_split: str | None = Field(None, description="Split for evaluation; found by itself if omitted.")
    image_column: str | None = Field(None, description="Column that holds the image; found by its feature if omitted.")
    label_column: str | None = Field(
        None, description="Column that holds the label, or a list of tags; found by its feature or name if omitted."
    )
    text_column: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=2,
        description="Column(s) that hold the text, two for pairs of texts; found by name if omitted.",
    )
    target_column: str | None = Field(
        None, description="Column of the text to be written, for encoder-decoders; found by name if omitted."
    )
    max_length: Count | None = Field(
        None,
        description="Tokens of the longest text, and of the blocks that text is packed into for language models; "
        "512 and 128 if omitted, and never more than the model holds.",
    )

    @field_validator("text_column", mode="before")
    @classmethod
    def _one_column_or_several(cls, columns: Any) -> Any:
        return (columns,) if isinstance(columns, str) else columns


class CalibrationOptions(Section):
    """The unlabelled samples that statistics and the closed-form refit are taken from."""

    samples: Count = Field(1024, description="How many training samples are used for calibration.")
    batch_size: Count = Field(128, description="Samples per forward pass.")
    holdout: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.125, description="Share of the calibration samples held out to choose map, teacher weights and ridge."
    )


class AlignmentOptions(Section):
    """How the coordinates of models are compared and coupled: features, ground cost, solver, marginals."""

    features: Literal["auto", "activations", "weights"] = Field(
        "auto", description="What ground costs are measured on; auto: activations when there is data."
    )
    tokens: str = Field(
        "all",
        description="Tokens whose activations are compared: all, class (the first token), window:N (the class token "
        "and the N x N patches in the middle), random:SHARE, or loss:X (samples whose loss is below X).",
    )
    preparation: str = Field(
        "raw", description="What is done to features before they are compared: raw, centred, standardised, normalised."
    )
    cost: str = Field(
        "euclidean", description="Ground cost between coordinates: euclidean, squared, cosine, correlation."
    )
    normalise: str = Field(
        "median", description="The unit of epsilon, by which costs are divided: their median, mean or max, or none."
    )
    solver: str = Field(
        "emd",
        description="Transport solver: emd (hard), sinkhorn (soft), partial, unbalanced, semirelaxed or "
        "semirelaxed-entropic.",
    )
    epsilon: Positive = Field(
        0.05, description="Entropic regularisation of soft solvers, in units of the cost's scale."
    )
    mass: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Share of the mass that partial transport moves."
    )
    relaxation: Positive = Field(
        1.0, description="How strongly unbalanced transport holds to its marginals, in units of the cost's scale."
    )
    marginals: Literal["uniform", "activation", "outgoing"] = Field(
        "uniform",
        description="Mass of a coordinate, where it is aligned to an anchor: the same for all, or by importance: the "
        "norm of its activations or of its outgoing weights.",
    )
    heads: Literal["auto", "within", "across"] = Field(
        "auto",
        description="Channels of attention are coupled within heads, once these are matched, or across all heads as in "
        "the paper; auto: within.",
    )
    query_key: Literal["joint", "separate", "equal"] = Field(
        "joint",
        description="Maps of queries and keys: one of both costs (joint), the query's for both (equal), or one each "
        "(separate: their product is then not kept).",
    )
    scaling: Literal["push-pull", "one-matrix"] = Field(
        "push-pull",
        description="one-matrix uses the push for readers too, as the paper's released code does: wrong by the ratio "
        "of the widths when they differ, and here for comparison only.",
    )


class FusionOptions(Section):
    """How teachers are transported into the student."""

    residual: str = Field(
        "auto",
        description="Residual map: auto, or the name of a registered map; or, to align everything to an anchor as in "
        "the paper, a residual policy: averaging, weighted-scalar, weighted-matrix, residual-only, branch-only, "
        "identity or global.",
    )
    inner: str = Field("auto", description="Map of heads and hidden units: auto, or the name of a registered map.")
    alignment: AlignmentOptions = AlignmentOptions()
    weights: Literal["auto"] | tuple[NonNegative, ...] = Field(
        "auto", description="One weight a teacher (they are normalised), or auto: chosen on held-out calibration data."
    )
    ridge: Literal["auto"] | NonNegative = Field(
        "auto", description="Ridge of the refit relative to the mean input variance, or auto: chosen on held-out data."
    )
    refit: bool = Field(True, description="Refit the transported weights in closed form; off: pure transport.")
    anchor: str | None = Field(
        None,
        description="A trained model whose shape the student takes and whose coordinates the teachers are aligned to; "
        "it takes part in the fusion if it is one of the teachers. Residual policies then take the first teacher.",
    )


class FinetuneOptions(Section):
    """The short training that follows the fusion: distillation from the ensemble, labels, or both."""

    enabled: bool = Field(True, description="Finetune after fusing, when there is data.")
    steps: Count = Field(200, description="Optimiser steps.")
    batch_size: Count = Field(128, description="Samples per step.")
    learning_rate: Literal["search"] | Positive = Field(
        3e-4, description="Peak learning rate of AdamW, or search: the best of learning_rates on a validation split."
    )
    learning_rates: tuple[Positive, ...] = Field(
        (1e-4, 3e-4, 1e-3), min_length=1, description="What the search tries, each with search_steps steps."
    )
    search_steps: Count | None = Field(
        None, description="Steps of each trial of the search; as many as steps if omitted."
    )
    validation: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="Share of the training samples that is kept out of the training to judge a search by."
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the steps that warm up; cosine after."
    )
    weight_decay: NonNegative = Field(0.01, description="Weight decay of AdamW.")
    temperature: Positive = Field(2.0, description="Temperature of the distillation; the loss is scaled by its square.")
    distil_weight: NonNegative = Field(1.0, description="Weight of the distillation; 0 trains on labels alone.")
    label_weight: NonNegative = Field(0.0, description="Weight of the cross-entropy with labels; 0 needs no labels.")
    checkpoint_every: Count = Field(50, description="Steps between checkpoints that an interrupted run resumes from.")

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> FinetuneOptions:
        if self.distil_weight == 0 and self.label_weight == 0:
            raise ValueError("distil_weight and label_weight are both 0: there is nothing to learn from")
        return self


class EvaluationOptions(Section):
    """What accuracy, perplexity and KL are measured on."""

    samples: Count | None = Field(2000, description="Evaluation samples, the first of the split; null for all of them.")
    batch_size: Count = Field(128, description="Samples per forward pass.")


class BenchOptions(Section):
    """How latency is measured in the run's table; `compress bench` measures longer."""

    latency: bool = Field(True, description="Measure latency in torch and in ONNX Runtime.")
    batch_size: Count = Field(32, description="Samples per call whose latency is measured.")
    seconds: Positive = Field(0.5, description="Least measuring time per model and backend.")
    threads: Count | None = Field(
        None, description="Threads of torch and ONNX Runtime; all cores of this process if omitted."
    )


class ExportOptions(Section):
    """The ONNX files and their proof."""

    onnx: bool = Field(True, description="Write the ONNX files and check them against torch.")
    cache: bool = Field(True, description="Also write files with past keys and values for models that generate.")
    tolerance: Positive = Field(1e-4, description="Largest allowed relative difference between ONNX Runtime and torch.")


class Recipe(Section):
    """Everything that one run needs, and everything that reproduces it."""

    teachers: tuple[str, ...] = Field(min_length=1, description="Local folders, built-in names or Hub ids.")
    student: str | None = Field(
        None, description="A narrow model to finetune; nothing is fused then, and width is not used."
    )
    output: str = Field("student", description="Folder to write; refused if it exists, unless --force.")
    width: float = Field(
        0.5, description="Residual width of the student as a share of the widest teacher's, in (0, 1]."
    )
    depth: float | int | None = Field(
        None,
        description="Layers of the student: a share of the deepest teacher's, such as 0.5, or a number of layers, such "
        "as 6; as many as the deepest teacher's if omitted.",
    )
    data: DataOptions = DataOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    fusion: FusionOptions = FusionOptions()
    finetune: FinetuneOptions = FinetuneOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    bench: BenchOptions = BenchOptions()
    export: ExportOptions = ExportOptions()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Seed of every random choice.")
    device: str = Field("cpu", description="Torch device, e.g. cpu, cuda, cuda:1.")

    @field_validator("width")
    @classmethod
    def _width_is_a_share(cls, width: float) -> float:
        if not math.isfinite(width) or not 0 < width <= 1:
            raise ValueError("a width must be above 0 and at most 1")
        return width

    @field_validator("depth", mode="before")
    @classmethod
    def _depth_is_a_share_or_a_number(cls, depth: Any) -> Any:
        if depth is None or (type(depth) is int and depth >= 1):
            return depth
        if type(depth) is not float or not 0 < depth <= 1:
            raise ValueError("a depth is a share above 0 and at most 1, or a whole number of layers")
        return depth

    @model_validator(mode="after")
    def _one_weight_per_teacher(self) -> Recipe:
        weights = self.fusion.weights
        if weights != "auto" and (len(weights) != len(self.teachers) or sum(weights) <= 0):
            raise ValueError(
                f"fusion.weights needs one non-negative weight per teacher, not all zero: "
                f"{len(weights)} weights for {len(self.teachers)} teachers"
            )
        return self

    def to_yaml(self) -> str:
        """The whole resolved recipe as YAML, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def build(values: dict[str, Any], *, where: str = "recipe", names: Mapping[str, str] | None = None) -> Recipe:
    """Validate nested values into a `Recipe`.

    Args:
        values: nested as in a recipe file; the key `preset` names values that these lie on (`compressor.presets`).
        where: what the values come from, for messages; may be empty.
        names: what to call a field in messages, by its dotted path: the flag that set it, for example.

    Raises:
        UserError: a key or the preset is unknown, or a value has the wrong type or range; the line names each.
    """
    values = dict(values)
    name = values.pop("preset", None)
    try:
        return Recipe.model_validate(values if name is None else beneath(values, str(name)))
    except ValidationError as error:
        # A field of several types reports each type that the value is not; the last is the general one.
        problems = {_field(problem["loc"]): problem for problem in error.errors()}
        said = "; ".join(_say(field, problem, names or {}) for field, problem in problems.items())
    except UserError as error:
        said = str(error)
    raise UserError(f"{where}: {said}" if where else said)


def read(path: str | Path) -> Recipe:
    """Read and validate a recipe file.

    Raises:
        UserError: the file is missing, unreadable, not YAML, not a mapping, or does not fit the schema.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}: give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: expected a mapping of options, found {type(values).__name__}")
    return build(values, where=str(path))


def _field(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys of a location in a recipe, without the types and positions that pydantic adds inside a field."""
    keys: list[str] = []
    section: Any = Recipe
    for part in location:
        keys.append(str(part))
        if not (isinstance(section, type) and issubclass(section, Section)) or part not in section.model_fields:
            break
        section = section.model_fields[str(part)].annotation
        if not (isinstance(section, type) and issubclass(section, Section)):
            break
    return tuple(keys)


def _say(field: tuple[str, ...], problem: Any, names: Mapping[str, str]) -> str:
    place = ".".join(field)
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for key in field[:-1]:
            section = section.model_fields[key].annotation
        return f"unknown key '{place}' (known keys: {', '.join(section.model_fields)})"
    message = _PHRASES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    if not place:
        return message
    said = problem["type"] not in ("missing", "too_short") and not isinstance(problem["input"], dict)
    given = f", not {problem['input']!r}" if said else ""
    return f"{names.get(place, place)}: {message[:1].lower()}{message[1:]}{given}"

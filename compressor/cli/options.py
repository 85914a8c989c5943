"""Flags: each is a field of the recipe, with that field's help and default, or steers the command itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from compressor.errors import UserError
from compressor.presets import PRESETS
from compressor.recipe import Recipe, build

#: Flag -> field of the recipe, by its dotted path.
FLAGS: dict[str, str] = {
    "--width": "width",
    "--target-params": "target.params",
    "--target-flops": "target.flops",
    "--max-latency": "target.latency",
    "--depth": "depth",
    "--output": "output",
    "--seed": "seed",
    "--device": "device",
    "--data": "data.source",
    "--train-split": "data.train_split",
    "--eval-split": "data.eval_split",
    "--image-column": "data.image_column",
    "--label-column": "data.label_column",
    "--text-column": "data.text_column",
    "--target-column": "data.target_column",
    "--max-length": "data.max_length",
    "--samples": "calibration.samples",
    "--residual": "fusion.residual",
    "--narrowing": "fusion.narrowing",
    "--inner": "fusion.inner",
    "--features": "fusion.alignment.features",
    "--tokens": "fusion.alignment.tokens",
    "--preparation": "fusion.alignment.preparation",
    "--cost": "fusion.alignment.cost",
    "--normalise": "fusion.alignment.normalise",
    "--solver": "fusion.alignment.solver",
    "--epsilon": "fusion.alignment.epsilon",
    "--mass": "fusion.alignment.mass",
    "--relaxation": "fusion.alignment.relaxation",
    "--marginals": "fusion.alignment.marginals",
    "--heads": "fusion.alignment.heads",
    "--query-key": "fusion.alignment.query_key",
    "--scaling": "fusion.alignment.scaling",
    "--weights": "fusion.weights",
    "--ridge": "fusion.ridge",
    "--no-refit": "fusion.refit",
    "--anchor": "fusion.anchor",
    "--no-finetune": "finetune.enabled",
    "--steps": "finetune.steps",
    "--batch-size": "finetune.batch_size",
    "--augment": "finetune.augment",
    "--learning-rate": "finetune.learning_rate",
    "--learning-rates": "finetune.learning_rates",
    "--search-steps": "finetune.search_steps",
    "--distil-weight": "finetune.distil_weight",
    "--label-weight": "finetune.label_weight",
    "--accumulate": "finetune.accumulate",
    "--precision": "finetune.precision",
    "--recompute": "finetune.recompute",
    "--tensorboard": "finetune.tensorboard",
    "--validate-every": "finetune.validate_every",
    "--patience": "finetune.patience",
    "--cache-logits": "finetune.cache_logits",
    "--losses": "finetune.losses",
    "--eval-samples": "evaluation.samples",
    "--no-latency": "bench.latency",
    "--no-onnx": "export.onnx",
    "--no-cache": "export.cache",
    "--formats": "export.formats",
    "--tolerance": "export.tolerance",
    "--teachers": "teachers",
}

_RUN, _DATA, _FUSION, _ALIGNMENT, _FINETUNE, _SKIP = (
    "The job",
    "Data",
    "Fusion",
    "Alignment of coordinates",
    "Finetune",
    "Leave out",
)


def flag(name: str, *more: str, panel: str | None = None, metavar: str | None = None, help: str | None = None) -> Any:
    """The option of a field of the recipe; its default is None, which leaves the field to the recipe."""
    description, default = _field(FLAGS[name])
    text = help or description
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if default not in (None, {}) and not isinstance(default, bool):
        # Escaped: brackets are markup in a help text.
        text += f" [dim]\\[default: {default}][/dim]"
    known = _words(FLAGS[name])
    return typer.Option(
        name, *more, help=text, show_default=False, rich_help_panel=panel, metavar=metavar,
        autocompletion=(lambda: known) if known else None,
    )  # fmt: skip


def without(name: str, help: str) -> Any:
    """A switch --no-… that turns a field of the recipe off, and its opposite, for what a preset turned off."""
    opposite = "--" + name.removeprefix("--no-")
    return typer.Option(f"{name}/{opposite}", help=help, show_default=False, metavar="", rich_help_panel=_SKIP)


def _words(path: str) -> list[str]:
    """The words that a field takes, for a shell that completes them; none where any text goes."""

    def of(kind: Any) -> list[str]:
        if get_origin(kind) is Literal:
            return [str(word) for word in get_args(kind)]
        return [word for part in get_args(kind) for word in of(part)]

    return of(_info(path).annotation)


def _info(path: str) -> Any:
    model: Any = Recipe
    *sections, last = path.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    return model.model_fields[last]


def _field(path: str) -> tuple[str, Any]:
    found = _info(path)
    return found.description or "", None if found.is_required() else found.default


Teachers = Annotated[
    list[str],
    typer.Argument(
        metavar="TEACHERS", help="Local folders, built-in names (vit-a, vit-b) or Hub ids of one model type."
    ),
]
TeacherFlags = Annotated[
    list[str], typer.Option("--teachers", "-t", help="A teacher; give the flag once for each.", rich_help_panel=_RUN)
]
Models = Annotated[
    list[str], typer.Argument(metavar="MODELS", help="Local folders, built-in names (vit-a, vit-b) or Hub ids.")
]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A local folder, a built-in name (vit-a, vit-b) or a Hub id.")
]
Width = Annotated[float | None, flag("--width", "-w", panel=_RUN)]
TargetParams = Annotated[str | None, flag("--target-params", panel=_RUN, metavar="N|SHARE")]
TargetFlops = Annotated[str | None, flag("--target-flops", panel=_RUN, metavar="N|SHARE")]
MaxLatency = Annotated[str | None, flag("--max-latency", panel=_RUN, metavar="TIME")]
Depth = Annotated[str | None, flag("--depth", panel=_RUN, metavar="SHARE|LAYERS")]
Output = Annotated[str | None, flag("--output", "-o", panel=_RUN)]
Seed = Annotated[int | None, flag("--seed")]
Device = Annotated[str | None, flag("--device")]
Data = Annotated[str | None, flag("--data", "-d", panel=_DATA)]
TrainSplit = Annotated[str | None, flag("--train-split", panel=_DATA)]
EvalSplit = Annotated[str | None, flag("--eval-split", panel=_DATA)]
ImageColumn = Annotated[str | None, flag("--image-column", panel=_DATA)]
LabelColumn = Annotated[str | None, flag("--label-column", panel=_DATA)]
TextColumn = Annotated[str | None, flag("--text-column", panel=_DATA, metavar="NAME[,NAME]")]
TargetColumn = Annotated[str | None, flag("--target-column", panel=_DATA)]
MaxLength = Annotated[int | None, flag("--max-length", panel=_DATA)]
Samples = Annotated[int | None, flag("--samples", panel=_DATA)]
EvalSamples = Annotated[
    str | None,
    flag(
        "--eval-samples",
        panel=_DATA,
        metavar="N|all",
        help="Evaluation samples, the first of the split, or all of them.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="A baseline or a published way; other flags replace what it says: "
        + ", ".join(f"{name} ({PRESETS.get(name).meaning})" for name in PRESETS.names())
        + ".",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_FUSION,
        autocompletion=lambda: list(PRESETS.names()),
    ),
]
Residual = Annotated[str | None, flag("--residual", panel=_FUSION)]
Narrowing = Annotated[str | None, flag("--narrowing", panel=_RUN)]
Inner = Annotated[str | None, flag("--inner", panel=_FUSION)]
Features = Annotated[str | None, flag("--features", panel=_ALIGNMENT)]
Tokens = Annotated[str | None, flag("--tokens", panel=_ALIGNMENT, metavar="FILTER")]
Preparation = Annotated[str | None, flag("--preparation", panel=_ALIGNMENT)]
Cost = Annotated[str | None, flag("--cost", panel=_ALIGNMENT)]
Normalise = Annotated[str | None, flag("--normalise", panel=_ALIGNMENT)]
Solver = Annotated[str | None, flag("--solver", panel=_ALIGNMENT)]
Epsilon = Annotated[float | None, flag("--epsilon", panel=_ALIGNMENT)]
Mass = Annotated[float | None, flag("--mass", panel=_ALIGNMENT)]
Relaxation = Annotated[float | None, flag("--relaxation", panel=_ALIGNMENT)]
Marginals = Annotated[str | None, flag("--marginals", panel=_ALIGNMENT)]
Heads = Annotated[str | None, flag("--heads", panel=_ALIGNMENT)]
QueryKey = Annotated[str | None, flag("--query-key", panel=_ALIGNMENT)]
Scaling = Annotated[str | None, flag("--scaling", panel=_ALIGNMENT)]
Weights = Annotated[
    str | None,
    flag("--weights", panel=_FUSION, metavar="W,W,...", help="One weight per teacher, such as 0.5,0.5, or auto."),
]
Ridge = Annotated[str | None, flag("--ridge", panel=_FUSION, metavar="FLOAT|auto")]
Anchor = Annotated[str | None, flag("--anchor", panel=_FUSION)]
NoRefit = Annotated[bool | None, without("--no-refit", "Pure transport: do not refit the weights in closed form.")]
NoFinetune = Annotated[bool | None, without("--no-finetune", "Do not finetune after fusing.")]
NoLatency = Annotated[bool | None, without("--no-latency", "Do not measure latency.")]
NoOnnx = Annotated[bool | None, without("--no-onnx", "Do not write and check ONNX files.")]
NoCache = Annotated[bool | None, without("--no-cache", "Write no ONNX files with past keys and values.")]
Steps = Annotated[int | None, flag("--steps", panel=_FINETUNE)]
BatchSize = Annotated[int | None, flag("--batch-size", panel=_FINETUNE)]
Augment = Annotated[str | None, flag("--augment", panel=_FINETUNE, metavar="NAME")]
LearningRate = Annotated[str | None, flag("--learning-rate", panel=_FINETUNE, metavar="FLOAT|search")]
LearningRates = Annotated[str | None, flag("--learning-rates", panel=_FINETUNE, metavar="FLOAT,FLOAT,...")]
SearchSteps = Annotated[int | None, flag("--search-steps", panel=_FINETUNE)]
DistilWeight = Annotated[float | None, flag("--distil-weight", panel=_FINETUNE)]
LabelWeight = Annotated[float | None, flag("--label-weight", panel=_FINETUNE)]
ValidateEvery = Annotated[int | None, flag("--validate-every", panel=_FINETUNE)]
Patience = Annotated[int | None, flag("--patience", panel=_FINETUNE)]
Accumulate = Annotated[int | None, flag("--accumulate", panel=_FINETUNE)]
Precision = Annotated[str | None, flag("--precision", panel=_FINETUNE, metavar="NAME")]
Recompute = Annotated[bool | None, flag("--recompute", panel=_FINETUNE)]
Tensorboard = Annotated[str | None, flag("--tensorboard", panel=_FINETUNE, metavar="FOLDER")]
CacheLogits = Annotated[bool | None, flag("--cache-logits", panel=_FINETUNE)]
Losses = Annotated[str | None, flag("--losses", panel=_FINETUNE, metavar="NAME=WEIGHT,...")]
Formats = Annotated[str | None, flag("--formats", metavar="NAME,NAME,...")]
Tolerance = Annotated[float | None, flag("--tolerance")]
Force = Annotated[bool, typer.Option("--force", help="Replace what exists already, once the new one is finished.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the finetune of an interrupted run, given the same options again.")
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        metavar="NAME",
        help="Also upload the finished folder to this repository of the Hugging Face Hub; without it nothing is sent.",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Length = Annotated[int, typer.Option("--length", min=1, help="Tokens of a text sample.")]


def to_recipe(given: Mapping[str, Any], *, preset: str | None = None, where: str = "") -> Recipe:
    """Validate flags as the recipe that they stand for.

    Args:
        given: {flag: value}; None leaves the recipe's default, and of a switch that turns something off, False turns
            it on.
        preset: the name of values that lie beneath them.
        where: what comes before an error.

    Raises:
        UserError: a value has the wrong type or range, or is of a search that is not asked for; the line names its
            flag. Or there is no such preset.
    """
    for name in ("--learning-rates", "--search-steps"):
        if given.get(name) is not None and given.get("--learning-rate") != "search":
            raise UserError(f"{name} is of a search of the learning rate: add --learning-rate search")
    return build({"preset": preset, **nested(given)}, where=where, names={path: name for name, path in FLAGS.items()})


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as nested values, as a recipe file has them; what was not given is left out."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        *sections, last = FLAGS[name].split(".")
        section = values
        for key in sections:
            section = section.setdefault(key, {})
        section[last] = _parsed(name, value)
    return values


def names(text: str) -> tuple[str, ...]:
    """The parts of a flag that lists names, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def counts(name: str, text: str) -> tuple[int, ...]:
    """The parts of a flag that lists whole numbers above 0, each once.

    Raises:
        UserError: one of them is something else.
    """
    parts = names(text)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{name}: give whole numbers above 0, such as 1,32, not {text!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _parsed(name: str, value: Any) -> Any:
    if name.startswith("--no-"):
        return not value
    if name == "--weights" and value != "auto":
        return tuple(part.strip() for part in value.split(","))
    if name in ("--text-column", "--learning-rates", "--formats"):
        return tuple(part.strip() for part in value.split(","))
    if name == "--losses":
        return {key.strip(): weight.strip() for key, _, weight in (part.partition("=") for part in value.split(","))}
    if name == "--depth":
        return int(value) if value.isdigit() else _number(value)
    if name == "--eval-samples":
        if value == "all":
            return None
        if not value.isdigit():
            raise UserError(f"--eval-samples: give a number of samples or all, not {value!r}")
        return int(value)
    return value


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        # The recipe says what it should have been.
        return text

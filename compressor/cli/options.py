"""Flags that set recipe fields, and shared parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

from compressor.cli import parsing
from compressor.cli.completion import complete_models, complete_words
from compressor.cli.flag import DATA, FINETUNE, FUSION, GENERAL, JOB, LEAVE_OUT, PAPER, Flag
from compressor.errors import UserError
from compressor.presets import PRESETS
from compressor.recipe import Recipe, build_recipe


def _switch(name: str, path: str, help: str) -> Flag:
    return Flag(name, path, LEAVE_OUT, bool, metavar="", help=help, parse=parsing.switched_off)


def by_name(flags: Iterable[Flag]) -> dict[str, Flag]:
    """{name: flag}; ValueError for a name that two flags have, of which the first would set nothing."""
    table: dict[str, Flag] = {}
    for flag in flags:
        if flag.name in table:
            raise ValueError(f"two flags are {flag.name}: of {table[flag.name].path} and of {flag.path}")
        table[flag.name] = flag
    return table


#: {flag: the field that it sets, and how it is taken}.
FLAGS: dict[str, Flag] = by_name(
    (
        Flag("--teachers", "teachers", JOB, list[str], "-t", help="A teacher; give the flag once for each."),
        Flag("--revision", "revision", JOB),
        Flag("--trust-remote-code", "trust_remote_code", JOB, bool),
        Flag("--width", "width", JOB, float, "-w"),
        Flag("--target-params", "target.params", JOB, metavar="N|SHARE"),
        Flag("--target-flops", "target.flops", JOB, metavar="N|SHARE"),
        Flag("--max-latency", "target.latency", JOB, metavar="TIME"),
        Flag("--depth", "depth", JOB, metavar="SHARE|LAYERS", parse=parsing.parse_depth),
        Flag("--narrowing", "fusion.narrowing", JOB),
        Flag("--prefer", "fusion.prefer", FUSION),
        Flag("--hidden", "fusion.hidden", JOB, float),
        Flag("--ffn", "fusion.ffn", JOB, float),
        Flag("--heads", "fusion.heads", JOB, float),
        Flag("--part", "fusion.part", JOB, metavar="NAME=SHARE,...", parse=parsing.parse_shares),
        Flag("--grid", "fusion.grid", JOB),
        Flag("--output", "output", JOB, short="-o"),
        Flag("--formats", "export.formats", JOB, metavar="NAME,NAME,...", parse=parsing.split_list),
        Flag("--tolerance", "export.tolerance", JOB, float),
        Flag("--opset", "export.opset", JOB, int),
        Flag("--data", "data.source", DATA, short="-d"),
        Flag("--train-split", "data.train_split", DATA),
        Flag("--eval-split", "data.eval_split", DATA),
        Flag("--image-column", "data.image_column", DATA),
        Flag("--label-column", "data.label_column", DATA),
        Flag("--text-column", "data.text_column", DATA, metavar="NAME[,NAME]", parse=parsing.split_list),
        Flag("--target-column", "data.target_column", DATA),
        Flag("--prompt", "data.prompt", DATA),
        Flag("--max-length", "data.max_length", DATA, int),
        Flag("--samples", "calibration.samples", DATA, int),
        Flag("--eval-samples", "evaluation.samples", DATA, metavar="N|all", parse=parsing.parse_eval_samples,
             help="Evaluation samples, the first of the split, or all of them."),
        Flag("--residual", "fusion.residual", FUSION),
        Flag("--inner", "fusion.inner", FUSION),
        Flag("--weights", "fusion.weights", FUSION, metavar="auto|equal|W,W,...", parse=parsing.parse_weights),
        Flag("--mixture", "fusion.mixture", FUSION),
        Flag("--classes", "fusion.classes", FUSION),
        Flag("--ridge", "fusion.ridge", FUSION, metavar="FLOAT|auto"),
        Flag("--polish", "fusion.polish", FUSION, metavar="STEPS|auto"),
        Flag("--effort", "fusion.effort", FUSION),
        Flag("--keep-dim", "fusion.keep_dim", FUSION, bool),
        Flag("--max-memory", "fusion.max_memory", FUSION, metavar="SIZE"),
        Flag("--features", "fusion.alignment.features", FUSION),
        Flag("--cost", "fusion.alignment.cost", FUSION),
        Flag("--solver", "fusion.alignment.solver", FUSION),
        Flag("--epsilon", "fusion.alignment.epsilon", FUSION, float),
        Flag("--steps", "finetune.steps", FINETUNE, int),
        Flag("--batch-size", "finetune.batch_size", FINETUNE, int),
        Flag("--augment", "finetune.augment", FINETUNE, metavar="NAME"),
        Flag("--learning-rate", "finetune.learning_rate", FINETUNE, metavar="FLOAT|search"),
        Flag("--learning-rates", "finetune.learning_rates", FINETUNE, metavar="FLOAT,FLOAT,...",
             parse=parsing.split_list),
        Flag("--search-steps", "finetune.search_steps", FINETUNE, int),
        Flag("--distil-weight", "finetune.distil_weight", FINETUNE, float),
        Flag("--temperature", "finetune.temperature", FINETUNE, metavar="FLOAT|auto"),
        Flag("--label-weight", "finetune.label_weight", FINETUNE, float),
        Flag("--losses", "finetune.losses", FINETUNE, metavar="NAME=WEIGHT,...|auto", parse=parsing.parse_losses),
        Flag("--accumulate", "finetune.accumulate", FINETUNE, metavar="N|auto"),
        Flag("--precision", "finetune.precision", FINETUNE, metavar="NAME"),
        Flag("--recompute", "finetune.recompute", FINETUNE, bool),
        Flag("--tensorboard", "finetune.tensorboard", FINETUNE, metavar="FOLDER"),
        Flag("--validate-every", "finetune.validate_every", FINETUNE, int),
        Flag("--patience", "finetune.patience", FINETUNE, int),
        Flag("--cache-logits", "finetune.cache_logits", FINETUNE, bool),
        _switch("--no-refit", "fusion.refit", "Pure transport: do not refit the weights in closed form."),
        _switch("--no-finetune", "finetune.enabled", "Do not finetune after fusing."),
        _switch("--no-latency", "bench.latency", "Do not measure latency."),
        _switch("--no-onnx", "export.onnx", "Do not write and check ONNX files."),
        _switch("--no-cache", "export.cache", "Write no ONNX files with past keys and values."),
        Flag("--seed", "seed", GENERAL, int),
        Flag("--dtype", "dtype", GENERAL),
        Flag("--device", "device", GENERAL),
        Flag("--threads", "threads", GENERAL, int),
        Flag("--anchor", "fusion.anchor", PAPER),
        Flag("--tokens", "fusion.alignment.tokens", PAPER, metavar="FILTER"),
        Flag("--preparation", "fusion.alignment.preparation", PAPER),
        Flag("--normalise", "fusion.alignment.normalise", PAPER),
        Flag("--mass", "fusion.alignment.mass", PAPER, float),
        Flag("--relaxation", "fusion.alignment.relaxation", PAPER, float),
        Flag("--marginals", "fusion.alignment.marginals", PAPER),
        Flag("--align-heads", "fusion.alignment.heads", PAPER),
        Flag("--query-key", "fusion.alignment.query_key", PAPER),
        Flag("--scaling", "fusion.alignment.scaling", PAPER),
    )
)  # fmt: skip
#: {dotted path of a field: its flag}.
FLAG_OF_FIELD: dict[str, str] = {flag.path: flag.name for flag in FLAGS.values()}

_COLUMNS = ("--image-column", "--label-column", "--text-column", "--target-column", "--prompt", "--max-length")
#: Groups of flags that several commands take, in the order of the help.
SHAPE = (
    "--width", "--target-params", "--target-flops", "--max-latency", "--depth", "--narrowing", "--hidden", "--ffn",
    "--heads", "--part", "--grid",
)  # fmt: skip
DATA_FLAGS = ("--data", "--train-split", "--eval-split", *_COLUMNS)
EVALUATION = ("--data", "--eval-split", *_COLUMNS, "--eval-samples")
FUSION_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.panel == FUSION)
TRAINING = tuple(name for name, flag in FLAGS.items() if flag.panel == FINETUNE)
#: What every command that computes takes.
MACHINE = ("--device", "--threads")
DELIVERY = ("--no-latency", "--no-onnx", "--no-cache", "--formats", "--opset", "--seed", "--dtype", *MACHINE)
#: What `--help` of a long command shows; `--help-all` shows the rest too.
FIRST_FLAGS = (
    "--teachers", "--width", "--target-params", "--max-latency", "--depth", "--output", "--formats", "--data",
    "--samples", "--eval-samples", "--steps", "--learning-rate", "--no-finetune", "--device", "--seed", "--curve",
)  # fmt: skip
PAPER_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.panel == PAPER)


def to_recipe(given: Mapping[str, Any], *, preset: str | None = None) -> Recipe:
    """Make a recipe of flags.

    Args:
        given: {flag: value}; None leaves the default; False of an "off" switch turns it on.

    Raises:
        UserError: a wrong value or preset, or a search value without search; names the flag.
    """
    for name in ("--learning-rates", "--search-steps"):
        if given.get(name) is not None and given.get("--learning-rate") != "search":
            raise UserError(f"{name} is of a search of the learning rate: add --learning-rate search")
    return build_recipe({"preset": preset, **nested(given)}, where="", names=FLAG_OF_FIELD)


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Nested recipe values of the flags that are not None."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        *sections, last = FLAGS[name].path.split(".")
        section = values
        for key in sections:
            section = section.setdefault(key, {})
        section[last] = FLAGS[name].value(value)
    return values


#: {flag: value} of one call; None if not given.
Given = dict[str, Any]


def takes_flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command flags of the recipe, in help order, received by its parameter `given`."""
    keys = {name.removeprefix("--").replace("-", "_"): name for name in names}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            command(given={name: values.pop(key) for key, name in keys.items()}, **values)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += [_parameter(*pair) for pair in keys.items()] if parameter.name == "given" else [parameter]
        # typer reads the signature, and gives every parameter by its name.
        vars(call)["__signature__"] = inspect.Signature([one.replace(kind=_BY_NAME) for one in parameters])
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def _parameter(key: str, name: str) -> inspect.Parameter:
    flag = FLAGS[name]
    return inspect.Parameter(key, _BY_NAME, default=None, annotation=Annotated[flag.type | None, flag.option()])


def _switch_option(name: str, help: str, panel: str = GENERAL) -> Any:
    return typer.Option(name, help=help, rich_help_panel=panel)


#: Names of a model on the command line.
MODEL_NAMES = "a local folder, a built-in name (vit-a, vit-b) or a Hub id"
Teachers = Annotated[
    list[str],
    typer.Argument(
        metavar="TEACHERS",
        help="Local folders, built-in names (vit-a, vit-b) or Hub ids of one model type.",
        autocompletion=complete_models,
    ),
]
TeacherFlags = Annotated[list[str], FLAGS["--teachers"].option()]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODELS",
        help="Local folders, built-in names (vit-a, vit-b) or Hub ids.",
        autocompletion=complete_models,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A local folder, a built-in name (vit-a, vit-b) or a Hub id.",
        autocompletion=complete_models,
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="A baseline or a published method; other flags replace its values: "
        + ", ".join(f"{name} ({PRESETS.get(name).meaning})" for name in PRESETS.names())
        + ".",
        metavar="NAME",
        show_default=False,
        rich_help_panel=FUSION,
        autocompletion=complete_words(PRESETS.names()),
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        metavar="NAME",
        help="Also upload the finished folder to this repository of the Hugging Face Hub; without it nothing is sent.",
        show_default=False,
        rich_help_panel=JOB,
    ),
]
WithPaths = Annotated[
    bool,
    _switch_option(
        "--with-paths",
        "With --push-to-hub: keep local paths of teachers and data in the upload; else names stand for them.",
        JOB,
    ),
]
Force = Annotated[bool, _switch_option("--force", "Replace an output that exists, once the new one is finished.")]
Resume = Annotated[
    bool, _switch_option("--resume", "Continue the finetune of an interrupted run, given the same options again.")
]
Json = Annotated[bool, _switch_option("--json", "Print JSON to stdout, and nothing else there.")]
Quiet = Annotated[bool, _switch_option("--quiet", "Show no progress: neither bars, nor a line a stage in a log.")]
Debug = Annotated[bool, _switch_option("--debug", "Show the traceback of an error.")]
Length = Annotated[int, typer.Option("--length", min=1, help="Tokens of a text sample.")]

"""What commands take: fields of the recipe as flags, in groups that several commands share, and flags of their own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from compressor.cli.flags import flag
from compressor.presets import PRESETS

_RUN, _DATA, _FUSION, _ALIGNMENT, _FINETUNE, _SKIP = (
    "The job",
    "Data",
    "Fusion",
    "Alignment of coordinates",
    "Finetune",
    "Leave out",
)


def without(name: str, help: str) -> Any:
    """A switch --no-… that turns a field of the recipe off, and its opposite, for what a preset turned off."""
    opposite = "--" + name.removeprefix("--no-")
    return typer.Option(f"{name}/{opposite}", help=help, show_default=False, metavar="", rich_help_panel=_SKIP)


#: How each flag of the recipe is taken.
OPTIONS: dict[str, Any] = {
    "--width": Annotated[float | None, flag("--width", "-w", panel=_RUN)],
    "--target-params": Annotated[str | None, flag("--target-params", panel=_RUN, metavar="N|SHARE")],
    "--target-flops": Annotated[str | None, flag("--target-flops", panel=_RUN, metavar="N|SHARE")],
    "--max-latency": Annotated[str | None, flag("--max-latency", panel=_RUN, metavar="TIME")],
    "--depth": Annotated[str | None, flag("--depth", panel=_RUN, metavar="SHARE|LAYERS")],
    "--output": Annotated[str | None, flag("--output", "-o", panel=_RUN)],
    "--seed": Annotated[int | None, flag("--seed")],
    "--device": Annotated[str | None, flag("--device")],
    "--data": Annotated[str | None, flag("--data", "-d", panel=_DATA)],
    "--train-split": Annotated[str | None, flag("--train-split", panel=_DATA)],
    "--eval-split": Annotated[str | None, flag("--eval-split", panel=_DATA)],
    "--image-column": Annotated[str | None, flag("--image-column", panel=_DATA)],
    "--label-column": Annotated[str | None, flag("--label-column", panel=_DATA)],
    "--text-column": Annotated[str | None, flag("--text-column", panel=_DATA, metavar="NAME[,NAME]")],
    "--target-column": Annotated[str | None, flag("--target-column", panel=_DATA)],
    "--max-length": Annotated[int | None, flag("--max-length", panel=_DATA)],
    "--samples": Annotated[int | None, flag("--samples", panel=_DATA)],
    "--eval-samples": Annotated[
        str | None,
        flag(
            "--eval-samples",
            panel=_DATA,
            metavar="N|all",
            help="Evaluation samples, the first of the split, or all of them.",
        ),
    ],
    "--preset": Annotated[
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
    ],
    "--residual": Annotated[str | None, flag("--residual", panel=_FUSION)],
    "--narrowing": Annotated[str | None, flag("--narrowing", panel=_RUN)],
    "--inner": Annotated[str | None, flag("--inner", panel=_FUSION)],
    "--features": Annotated[str | None, flag("--features", panel=_ALIGNMENT)],
    "--tokens": Annotated[str | None, flag("--tokens", panel=_ALIGNMENT, metavar="FILTER")],
    "--preparation": Annotated[str | None, flag("--preparation", panel=_ALIGNMENT)],
    "--cost": Annotated[str | None, flag("--cost", panel=_ALIGNMENT)],
    "--normalise": Annotated[str | None, flag("--normalise", panel=_ALIGNMENT)],
    "--solver": Annotated[str | None, flag("--solver", panel=_ALIGNMENT)],
    "--epsilon": Annotated[float | None, flag("--epsilon", panel=_ALIGNMENT)],
    "--mass": Annotated[float | None, flag("--mass", panel=_ALIGNMENT)],
    "--relaxation": Annotated[float | None, flag("--relaxation", panel=_ALIGNMENT)],
    "--marginals": Annotated[str | None, flag("--marginals", panel=_ALIGNMENT)],
    "--heads": Annotated[str | None, flag("--heads", panel=_ALIGNMENT)],
    "--query-key": Annotated[str | None, flag("--query-key", panel=_ALIGNMENT)],
    "--scaling": Annotated[str | None, flag("--scaling", panel=_ALIGNMENT)],
    "--weights": Annotated[
        str | None,
        flag("--weights", panel=_FUSION, metavar="W,W,...", help="One weight per teacher, such as 0.5,0.5, or auto."),
    ],
    "--ridge": Annotated[str | None, flag("--ridge", panel=_FUSION, metavar="FLOAT|auto")],
    "--polish": Annotated[str | None, flag("--polish", panel=_FUSION, metavar="STEPS|auto")],
    "--anchor": Annotated[str | None, flag("--anchor", panel=_FUSION)],
    "--no-refit": Annotated[
        bool | None, without("--no-refit", "Pure transport: do not refit the weights in closed form.")
    ],
    "--no-finetune": Annotated[bool | None, without("--no-finetune", "Do not finetune after fusing.")],
    "--no-latency": Annotated[bool | None, without("--no-latency", "Do not measure latency.")],
    "--no-onnx": Annotated[bool | None, without("--no-onnx", "Do not write and check ONNX files.")],
    "--no-cache": Annotated[bool | None, without("--no-cache", "Write no ONNX files with past keys and values.")],
    "--steps": Annotated[int | None, flag("--steps", panel=_FINETUNE)],
    "--batch-size": Annotated[int | None, flag("--batch-size", panel=_FINETUNE)],
    "--augment": Annotated[str | None, flag("--augment", panel=_FINETUNE, metavar="NAME")],
    "--learning-rate": Annotated[str | None, flag("--learning-rate", panel=_FINETUNE, metavar="FLOAT|search")],
    "--learning-rates": Annotated[str | None, flag("--learning-rates", panel=_FINETUNE, metavar="FLOAT,FLOAT,...")],
    "--search-steps": Annotated[int | None, flag("--search-steps", panel=_FINETUNE)],
    "--distil-weight": Annotated[float | None, flag("--distil-weight", panel=_FINETUNE)],
    "--temperature": Annotated[str | None, flag("--temperature", panel=_FINETUNE, metavar="FLOAT|auto")],
    "--label-weight": Annotated[float | None, flag("--label-weight", panel=_FINETUNE)],
    "--validate-every": Annotated[int | None, flag("--validate-every", panel=_FINETUNE)],
    "--patience": Annotated[int | None, flag("--patience", panel=_FINETUNE)],
    "--accumulate": Annotated[str | None, flag("--accumulate", panel=_FINETUNE, metavar="N|auto")],
    "--precision": Annotated[str | None, flag("--precision", panel=_FINETUNE, metavar="NAME")],
    "--recompute": Annotated[bool | None, flag("--recompute", panel=_FINETUNE)],
    "--tensorboard": Annotated[str | None, flag("--tensorboard", panel=_FINETUNE, metavar="FOLDER")],
    "--cache-logits": Annotated[bool | None, flag("--cache-logits", panel=_FINETUNE)],
    "--losses": Annotated[str | None, flag("--losses", panel=_FINETUNE, metavar="NAME=WEIGHT,...")],
    "--formats": Annotated[str | None, flag("--formats", metavar="NAME,NAME,...")],
    "--tolerance": Annotated[float | None, flag("--tolerance")],
}

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
WithPaths = Annotated[
    bool,
    typer.Option(
        "--with-paths",
        help="With --push-to-hub: leave local paths of teachers and data in what is uploaded; else names stand for "
        "them.",
        rich_help_panel=_RUN,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Length = Annotated[int, typer.Option("--length", min=1, help="Tokens of a text sample.")]

_COLUMNS = ("--image-column", "--label-column", "--text-column", "--target-column", "--max-length")
#: Groups of flags that several commands take.
SHAPE = ("--width", "--target-params", "--target-flops", "--max-latency", "--depth")
DATA = ("--data", "--train-split", "--eval-split", *_COLUMNS)
EVALUATION = ("--data", "--eval-split", *_COLUMNS, "--eval-samples")
TRAINING = (
    "--steps", "--batch-size", "--augment", "--learning-rate", "--learning-rates", "--search-steps", "--distil-weight",
    "--temperature", "--label-weight", "--losses", "--accumulate", "--precision", "--recompute", "--tensorboard",
    "--validate-every", "--patience", "--cache-logits",
)  # fmt: skip
FUSION = (
    "--preset", "--residual", "--narrowing", "--inner", "--features", "--tokens", "--preparation", "--cost",
    "--normalise", "--solver", "--epsilon", "--mass", "--relaxation", "--marginals", "--heads", "--query-key",
    "--scaling", "--weights", "--ridge", "--polish", "--anchor", "--no-refit", "--no-finetune",
)  # fmt: skip
DELIVERY = ("--no-latency", "--no-onnx", "--no-cache", "--formats", "--seed", "--device")

#: The flags of the recipe that a command was given, {flag: value}; None where it was not.
Given = dict[str, Any]


def takes_flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take flags of the recipe, in the place of its parameter `given`, which has them all.

    Args:
        names: of the flags, in the order that the help has them.
    """
    flags = {name.removeprefix("--").replace("-", "_"): name for name in names}

    def taking(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**values: Any) -> None:
            command(given={name: values.pop(key) for key, name in flags.items()}, **values)

        parameters: list[inspect.Parameter] = []
        for one in inspect.signature(command, eval_str=True).parameters.values():
            parameters += [_parameter(*pair) for pair in flags.items()] if one.name == "given" else [one]
        # What typer reads; it gives every parameter by its name.
        vars(called)["__signature__"] = inspect.Signature([one.replace(kind=_BY_NAME) for one in parameters])
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return taking


_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def _parameter(key: str, flag: str) -> inspect.Parameter:
    return inspect.Parameter(key, _BY_NAME, default=None, annotation=OPTIONS[flag])

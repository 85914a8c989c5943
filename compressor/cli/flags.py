"""Flags that are fields of the recipe: their help and defaults, and the recipe that they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import typer
from rich.markup import escape

from compressor.errors import UserError
from compressor.recipe import Recipe, build_recipe

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
    "--polish": "fusion.polish",
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
    "--temperature": "finetune.temperature",
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


def flag(name: str, *more: str, panel: str | None = None, metavar: str | None = None, help: str | None = None) -> Any:
    """The option of a field of the recipe; its default is None, which leaves the field to the recipe."""
    description, default = _field(FLAGS[name])
    # Escaped, as below: brackets are markup in a help text.
    text = escape(help or description)
    known = known_words(FLAGS[name])
    if not all(re.search(rf"\b{re.escape(word)}\b", text) for word in known):
        text += f" One of {', '.join(known)}."
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if default not in (None, {}) and not isinstance(default, bool):
        text += f" [dim]\\[default: {default}][/dim]"
    return typer.Option(
        name, *more, help=text, show_default=False, rich_help_panel=panel, metavar=metavar,
        autocompletion=(lambda: known) if known else None,
    )  # fmt: skip


def known_words(path: str) -> list[str]:
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
    return build_recipe(
        {"preset": preset, **nested(given)}, where=where, names={path: name for name, path in FLAGS.items()}
    )


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


def split_names(text: str) -> tuple[str, ...]:
    """The parts of a flag that lists names, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def split_counts(name: str, text: str) -> tuple[int, ...]:
    """The parts of a flag that lists whole numbers above 0, each once.

    Raises:
        UserError: one of them is something else.
    """
    parts = split_names(text)
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

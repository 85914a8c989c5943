"""From nested values, or a file, to a validated recipe; what is wrong is said in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from compressor.errors import UserError
from compressor.presets import beneath
from compressor.recipe.base import Section
from compressor.recipe.recipe import Recipe
from compressor.recipe.yaml_values import MAX_BYTES, LimitError, load
from compressor.utils.input_files import read_text
from compressor.wording import quote, shorten

#: Problems of a recipe that a message lists.
_SAID = 8
#: What pydantic says in terms of Python, said in terms of a recipe.
_PHRASES = {
    "missing": "this key is required",
    "too_short": "at least one is needed",
    "tuple_type": "this should be a list",
    "model_type": "this should be a section with keys of its own",
}


def build_recipe(values: dict[str, Any], *, where: str = "recipe", names: Mapping[str, str] | None = None) -> Recipe:
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
        first = list(problems.items())[:_SAID]
        said = "; ".join(_say(field, problem, names or {}) for field, problem in first)
        said += f"; and {len(problems) - len(first)} more" if len(problems) > len(first) else ""
    except UserError as error:
        said = str(error)
    raise UserError(f"{where}: {said}" if where else said)


def read_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe file.

    Raises:
        UserError: the file is missing, unreadable, not YAML, not a mapping, or does not fit the schema.
    """
    path = Path(path)
    try:
        values = load(read_text(path, MAX_BYTES))
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}: give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from None
    except LimitError as error:
        raise UserError(f"{path} is too large for a recipe: {error}") from None
    # A date or a number that YAML takes for one and Python does not is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: expected a mapping of options, found {type(values).__name__}")
    return build_recipe(values, where=str(path))


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
    place = shorten(".".join(field))
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for key in field[:-1]:
            section = section.model_fields[key].annotation
        return f"unknown key '{place}' (known keys: {', '.join(section.model_fields)})"
    message = _PHRASES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    if not place:
        return message
    said = problem["type"] not in ("missing", "too_short") and not isinstance(problem["input"], dict)
    given = f", not {quote(problem['input'])}" if said else ""
    return f"{names.get(place, place)}: {message[:1].lower()}{message[1:]}{given}"

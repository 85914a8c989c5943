"""Reading a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from compressor.errors import UserError
from compressor.presets import beneath
from compressor.recipe.recipe import Recipe
from compressor.recipe.section import Section
from compressor.recipe.yaml_values import MAX_BYTES, LimitError, load_yaml
from compressor.utils.input_files import read_text
from compressor.wording import quote, shorten

#: Most problems listed in a message.
_LISTED = 8
#: Messages instead of pydantic's, which speak of Python.
_PHRASES = {
    "missing": "this key is required",
    "too_short": "at least one is needed",
    "tuple_type": "this should be a list",
    "model_type": "this should be a section with keys of its own",
}


def build_recipe(values: dict[str, Any], *, where: str = "recipe", names: Mapping[str, str] | None = None) -> Recipe:
    """Validate nested values into a `Recipe`.

    Args:
        values: as in a recipe file; `preset` names defaults.
        where: origin, for messages.
        names: {dotted path: name in messages}, such as a flag.

    Raises:
        UserError: names unknown keys or preset, wrong types and ranges.
    """
    values = dict(values)
    name = values.pop("preset", None)
    try:
        return Recipe.model_validate(values if name is None else beneath(values, str(name)))
    except ValidationError as error:
        # A field of several types reports an error for each; the last is general.
        problems = {_field(problem["loc"]): problem for problem in error.errors()}
        listed = list(problems.items())[:_LISTED]
        message = "; ".join(_describe(field, problem, names or {}) for field, problem in listed)
        message += f"; and {len(problems) - len(listed)} more" if len(problems) > len(listed) else ""
    except UserError as error:
        message = str(error)
    raise UserError(f"{where}: {message}" if where else message)


def read_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe file.

    Raises:
        UserError: unreadable, not YAML, or invalid.
    """
    path = Path(path)
    try:
        values = load_yaml(read_text(path, MAX_BYTES))
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}: give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from None
    except LimitError as error:
        raise UserError(f"{path} is too large for a recipe: {error}") from None
    # Dates and numbers that YAML accepts and Python refuses raise ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a recipe: expected a mapping of options, found {type(values).__name__}")
    return build_recipe(values, where=str(path))


def _field(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """Keys of a location, without pydantic's types and positions."""
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


def _describe(field: tuple[str, ...], problem: Any, names: Mapping[str, str]) -> str:
    place = shorten(".".join(field))
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for key in field[:-1]:
            section = section.model_fields[key].annotation
        return f"unknown key '{place}' (known keys: {', '.join(section.model_fields)})"
    message = _PHRASES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    if not place:
        return message
    shows_value = problem["type"] not in ("missing", "too_short") and not isinstance(problem["input"], dict)
    given = f", not {quote(problem['input'])}" if shows_value else ""
    return f"{names.get(place, place)}: {message[:1].lower()}{message[1:]}{given}"

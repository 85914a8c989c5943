"""Keywords of a call as sections of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from compressor.recipe import Recipe


def recipe_sections(arguments: Mapping[str, Any], *names: str) -> dict[str, dict[str, Any]]:
    """{section: the arguments that are its fields}; None stands for a default where it is no value."""
    sections: dict[str, dict[str, Any]] = {}
    for name in names:
        schema: Any = Recipe.model_fields[name].annotation
        sections[name] = {
            key: arguments[key]
            for key, field in schema.model_fields.items()
            if key in arguments and (arguments[key] is not None or type(None) in get_args(field.annotation))
        }
    return sections


def keyword_names(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """{dotted path of a field: its keyword}, for messages of a recipe."""
    return {f"{section}.{key}": key for section, keys in sections.items() for key in keys}

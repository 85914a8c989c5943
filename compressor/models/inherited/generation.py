"""Settings of text generation that a student takes from its teachers."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from compressor.models.configs.own_code import AUTO_MAP
from compressor.utils.logging import quiet_transformers
from compressor.wording import shorten

#: Fields that are not settings.
_NOT_SETTINGS = ("transformers_version", "_from_model_config", "_commit_hash", AUTO_MAP)
#: Fields that name layers or heads, which a student of another shape does not have.
_OF_LAYERS = ("alignment_heads", "assistant_early_exit", "dola_layers")


def carry_generation(student: PreTrainedModel, teachers: Sequence[tuple[str, PreTrainedModel]]) -> tuple[str, ...]:
    """Give a student the generation settings in which its teachers agree, in place; lines on the others."""
    settings, notes = agreed_generation(teachers)
    if settings and student.can_generate() and student.generation_config is not None:
        student.generation_config = _config_of({**_values(student.generation_config), **settings})
    return notes


def agreed_generation(teachers: Sequence[tuple[str, PreTrainedModel]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of generation_config.json in which all teachers agree that have some, and lines on the others.

    Teachers whose settings are only those of their config.json take no part.
    """
    named = {name: values for name, model in teachers if (values := _settings(model)) is not None}
    agreed: dict[str, Any] = {}
    differing, of_layers = [], []
    for key in dict.fromkeys(key for values in named.values() for key in values):
        given = [values.get(key) for values in named.values()]
        if key in _OF_LAYERS:
            of_layers.append(key)
        elif all(value == given[0] for value in given):
            agreed[key] = given[0]
        else:
            by_teacher = ", ".join(f"{name}: {_format(value)}" for name, value in zip(named, given, strict=True))
            differing.append(f"{key} ({by_teacher})")
    notes = (
        *_note("the teachers differ in what is left out:", differing),
        *_note("layers and heads of the student are not the teachers', so it loses", of_layers),
    )
    return agreed, notes


def _settings(model: PreTrainedModel) -> dict[str, Any] | None:
    """A model's own settings; None without any beyond its config's."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return None
    values = _values(config)
    if getattr(config, "_from_model_config", False):
        with quiet_transformers():
            derived = _values(GenerationConfig.from_model_config(copy.deepcopy(model.config)))
        return values if values.keys() - derived.keys() else None
    return values


def _values(config: GenerationConfig) -> dict[str, Any]:
    """Settings that are not defaults, as in generation_config.json."""
    values = json.loads(config.to_json_string(use_diff=True, ignore_metadata=True))
    return {key: value for key, value in values.items() if key not in _NOT_SETTINGS and value is not None}


def _config_of(values: dict[str, Any]) -> GenerationConfig:
    """Read from a file, as transformers saves odd settings only if they were so loaded."""
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch, quiet_transformers():
        Path(scratch, "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
        return GenerationConfig.from_pretrained(scratch)


def _note(why: str, fields: Sequence[str]) -> list[str]:
    return [f"generation_config.json: {why} {', '.join(fields)}"] if fields else []


def _format(value: Any) -> str:
    return "none" if value is None else shorten(str(value))

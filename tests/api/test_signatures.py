"""Editors see every keyword of the Python face, and each is the recipe's with its default."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing

import pytest

import compressor
from compressor.recipe import Recipe

#: {function: the sections of the recipe that it takes, with fields that it names otherwise or decides itself}.
SECTIONS = {
    "fuse": {"fusion": {"anchor"}, "calibration": set(), "data": {"source", "eval_split"}},
    "finetune": {"finetune": {"enabled"}, "data": {"source", "eval_split"}},
    "distill": {"finetune": {"enabled"}},
    "evaluate": {"evaluation": set(), "data": {"source", "train_split"}},
    "export": {"export": {"onnx"}, "calibration": {"batch_size", "holdout"}, "data": {"source"}},
    "plan": {"target": set()},
}
#: Fields at the top of a recipe, where a function has them.
TOP = {"width", "depth", "seed", "device", "revision", "trust_remote_code"}
FUNCTIONS = [name for name in compressor.__all__ if callable(getattr(compressor, name)) and name != "UserError"]


def parameters(name):
    return inspect.signature(getattr(compressor, name)).parameters


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_hides_behind_other_keywords(name):
    kinds = {parameter.kind for parameter in parameters(name).values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert "Args:" in getattr(compressor, name).__doc__


@pytest.mark.parametrize("name", SECTIONS)
def test_keywords_are_those_of_the_recipe_with_their_defaults(name):
    known = parameters(name)
    for section, others in SECTIONS[name].items():
        for field, about in Recipe.model_fields[section].annotation.model_fields.items():
            if field in others:
                continue
            assert field in known, f"{name} lacks {section}.{field}"
            default = about.get_default(call_default_factory=True)
            if known[field].default is None:
                # None stands for a section or a mapping that is left as it is.
                assert default is None or default == {} or default == type(default)(), field
            else:
                assert known[field].default == default, field
    for field in TOP & set(known):
        assert known[field].default == Recipe.model_fields[field].default, field


def test_a_preset_has_no_other_keywords():
    from compressor.presets import PRESETS

    for name in PRESETS.names():
        values = dict(PRESETS.get(name).values)
        flat = {**values.pop("fusion", {}), **values.pop("calibration", {}), **values}
        assert flat.keys() <= parameters("fuse").keys()


def test_sections_inside_a_keyword_have_the_recipes_keys():
    from compressor import recipe
    from compressor.api import sections

    pairs = {"AlignmentKeys": "AlignmentOptions", "Int8Keys": "Int8Options", "LossKeys": "LossOptions"}
    for keys, options in pairs.items():
        fields = getattr(recipe, options).model_fields
        assert typing.get_type_hints(getattr(sections, keys)).keys() == fields.keys()


def test_bench_has_the_settings_and_defaults_of_the_command():
    from dataclasses import fields

    from compressor.pipeline.bench import BenchSettings

    renamed = {"batch_sizes": "batch_size", "lengths": "length"}
    known = parameters("bench")
    for field in fields(BenchSettings):
        default = known[renamed.get(field.name, field.name)].default
        assert (default,) == field.default if field.name in renamed else default == field.default


def test_the_package_is_light_and_keeps_its_functions():
    """`bench` and `export` are folders too, which Python would put where the functions are."""
    program = (
        "import sys, compressor; heavy = {'torch', 'numpy', 'transformers', 'datasets', 'pydantic', 'rich'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "import compressor.bench.rows, compressor.export; from compressor.bench.rows import Row; "
        "assert callable(compressor.bench) and callable(compressor.export) and compressor.UserError; "
        "assert sys.modules['compressor.bench'].rows.Row is Row"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

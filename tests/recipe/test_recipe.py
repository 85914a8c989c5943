"""The one schema of every option: what it accepts, what it refuses and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compressor.cli.options import FLAGS, by_name, nested, to_recipe
from compressor.errors import UserError
from compressor.recipe import Recipe, build_recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def refusal(values, **options):
    with pytest.raises(UserError) as caught:
        build_recipe(values, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_only_teachers_are_needed():
    recipe = build_recipe({"teachers": ["a", "b"]})
    assert recipe.width == 0.5
    assert recipe.output == "student"
    assert recipe.finetune.enabled


def test_yaml_round_trip_keeps_every_value():
    recipe = build_recipe(
        {"teachers": ["a"], "width": 0.3, "finetune": {"learning_rate": 1e-5}, "fusion": {"weights": [2.0]}}
    )
    assert build_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_of_the_repository_are_valid(path):
    assert len(read_recipe(path).teachers) == 2


@pytest.mark.parametrize("width", [0, -0.5, 1.01, float("nan"), float("inf"), "wide", None])
def test_a_width_that_is_no_share_is_refused(width):
    assert "width" in refusal({"teachers": ["a"], "width": width})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"widht": 1}, "unknown key 'widht' (known keys: teachers,"),
        ({"fusion": {"ridgee": 1}}, "unknown key 'fusion.ridgee' (known keys: residual,"),
        ({"fusion": 3}, "fusion: this should be a section with keys of its own, not 3"),
        ({"finetune": {"steps": "many"}}, "finetune.steps: input should be a valid integer"),
        ({"calibration": {"samples": 0}}, "calibration.samples: input should be greater than or equal to 1, not 0"),
        ({"fusion": {"weights": [1, 2]}}, "one non-negative weight per teacher"),
        ({"fusion": {"weights": [-1]}}, "fusion.weights"),
        ({"fusion": {"ridge": "small"}}, "fusion.ridge"),
        ({"teachers": []}, "teachers: at least one is needed"),
        ({"teachers": "a"}, "teachers: this should be a list, not 'a'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refusals_name_the_key(values, said):
    assert said in refusal({"teachers": ["a"], **values})


def test_a_field_of_several_types_is_refused_once():
    assert refusal({"teachers": ["a"], "fusion": {"ridge": "x"}}).count("fusion.ridge") == 1


def test_missing_teachers_are_named():
    assert refusal({}) == "recipe: teachers: this key is required"


def test_refusals_can_name_the_flag():
    message = refusal({"teachers": ["a"], "width": 2}, where="", names={"width": "--width"})
    assert message.startswith("--width: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teachers: [a", "is not YAML"),
        ("- a\n- b", "is not a recipe"),
        ("", "is not a recipe"),
        ("teachers: [a]\nwdth: 1", "unknown key 'wdth'"),
        ("teachers: [a]\nteachers: [b]", "the key 'teachers' is there twice"),
    ],
)
def test_files_that_are_no_recipes_are_refused(tmp_path, text, said):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(UserError, match="no recipe at"):
        read_recipe(tmp_path / "none.yaml")


def test_every_flag_is_a_field_of_the_recipe():
    for flag in FLAGS.values():
        model = Recipe
        *sections, last = flag.path.split(".")
        for section in sections:
            model = model.model_fields[section].annotation
        assert last in model.model_fields


def test_flags_and_recipe_are_the_same():
    flags = {
        "--teachers": ("a", "b"),
        "--width": 0.25,
        "--weights": "1,3",
        "--ridge": "0.01",
        "--eval-samples": "all",
        "--steps": 7,
        "--no-refit": True,
        "--no-onnx": False,
        "--data": None,
    }
    values = {
        "teachers": ["a", "b"],
        "width": 0.25,
        "fusion": {"weights": [1, 3], "ridge": 0.01, "refit": False},
        "evaluation": {"samples": None},
        "finetune": {"steps": 7},
    }
    assert to_recipe(flags) == build_recipe(values)


def test_flags_that_were_not_given_are_left_to_the_recipe():
    assert nested({"--width": None, "--no-refit": None}) == {}


@pytest.mark.parametrize(
    ("flag", "value"), [("--weights", "1,x"), ("--weights", "1"), ("--ridge", "-1"), ("--steps", 0), ("--epsilon", 0.0)]
)
def test_wrong_flags_are_named(flag, value):
    with pytest.raises(UserError, match=flag if flag != "--weights" or "x" in value else "weight"):
        to_recipe({"--teachers": ("a", "b"), flag: value})


def test_eval_samples_is_a_number_or_all():
    with pytest.raises(UserError, match="--eval-samples"):
        to_recipe({"--teachers": ("a",), "--eval-samples": "some"})


@pytest.mark.parametrize("depth", [0.5, 1.0, 1, 6, None])
def test_a_depth_is_a_share_or_a_number_of_layers(depth):
    recipe = build_recipe({"teachers": ["a"], "depth": depth})
    again = build_recipe(yaml.safe_load(recipe.to_yaml()))
    assert again.depth == depth and type(again.depth) is type(depth)


def test_depth_as_a_flag():
    assert to_recipe({"--teachers": ("a",), "--depth": "6"}).depth == 6
    assert to_recipe({"--teachers": ("a",), "--depth": "0.5"}).depth == 0.5
    assert type(to_recipe({"--teachers": ("a",), "--depth": "1.0"}).depth) is float


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, "half", float("nan")])
def test_other_depths_are_refused(depth):
    assert "depth: a depth is a share above 0 and at most 1, or a whole number" in refusal(
        {"teachers": ["a"], "depth": depth}
    )


def test_text_columns_are_one_or_two():
    assert build_recipe({"teachers": ["a"], "data": {"text_column": "body"}}).data.text_column == ("body",)
    assert to_recipe({"--teachers": ("a",), "--text-column": "one, two"}).data.text_column == ("one", "two")
    assert "data.text_column" in refusal({"teachers": ["a"], "data": {"text_column": ["a", "b", "c"]}})


def test_no_two_flags_have_one_name():
    flag = FLAGS["--heads"]
    with pytest.raises(ValueError, match=r"two flags are --heads: of fusion\.heads"):
        by_name([flag, flag])
    # One of the paper's had this name too, and was the only one that did something.
    assert to_recipe({"--teachers": ("a",), "--heads": 0.5}).fusion.heads == 0.5
    assert to_recipe({"--teachers": ("a",), "--align-heads": "across"}).fusion.alignment.heads == "across"

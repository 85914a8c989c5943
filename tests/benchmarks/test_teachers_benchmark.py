"""Teachers of benchmarks: trained once each, from recipes."""

from __future__ import annotations

import json

import pytest
import typer

from benchmarks.common.teachers import TeacherRecipe, Trained, choose, train_missing

FIELDS = "config: {}\nsteps: 2\nevaluate_every: 1\nbatch_size: 1\nlearning_rate: 0.1\nweight_decay: 0\n"


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, seed in (("one", 1), ("two", 2)):
        (folder / f"{name}.yaml").write_text(f"seed: {seed}\n{FIELDS}", encoding="utf-8")
    return folder


def trainer(made, broken=None):
    def train(recipe, folder, progress):
        if recipe.seed == broken:
            raise RuntimeError("out of memory")
        made.append(recipe.seed)
        (folder / "config.json").write_text("{}", encoding="utf-8")
        return Trained({"accuracy": 0.5}, {"accuracy": 0.6}, 1, recipe.steps, 1.0, 10)

    return train


def test_each_is_trained_once_and_all_are_gathered(recipes, tmp_path):
    output, made = tmp_path / "out", []
    with pytest.raises(RuntimeError):
        list(train_missing(choose(recipes, None, output, TeacherRecipe), output, trainer(made, broken=2)))
    assert made == [1] and not (output / "two").exists()
    lines = list(train_missing(choose(recipes, None, output, TeacherRecipe), output, trainer(made)))
    assert made == [1, 2]
    assert [line.endswith("(finished before)") for line in lines] == [True, False]
    # Nobody shall choose settings by the test part.
    assert "0.5" in lines[0] and "0.6" not in lines[0]
    assert set(json.loads((output / "results.json").read_text(encoding="utf-8"))) == {"one", "two"}


def test_what_another_recipe_made_is_refused(recipes, tmp_path):
    output = tmp_path / "out"
    list(train_missing(choose(recipes, ["one"], output, TeacherRecipe), output, trainer([])))
    (recipes / "one.yaml").write_text(f"seed: 3\n{FIELDS}", encoding="utf-8")
    assert list(choose(recipes, ["two"], output, TeacherRecipe)) == ["two"]
    with pytest.raises(typer.BadParameter, match="made by another recipe"):
        choose(recipes, None, output, TeacherRecipe)


def test_an_unknown_name_is_answered_with_the_known(recipes, tmp_path):
    with pytest.raises(typer.BadParameter, match="no recipe for three: there are one, two"):
        choose(recipes, ["three"], tmp_path, TeacherRecipe)


def test_a_file_with_seeds_holds_a_recipe_for_each(recipes, tmp_path):
    (recipes / "many.yaml").write_text(f"seeds: [5, 7]\n{FIELDS}", encoding="utf-8")
    chosen = choose(recipes, None, tmp_path, TeacherRecipe)
    assert {name: recipe.seed for name, recipe in chosen.items()} == {"many-5": 5, "many-7": 7, "one": 1, "two": 2}
    for wrong, word in (("seeds: [5]\nwidht: 3\n", "widht"), ("seeds: [5]\nseed: 1\n", "seeds")):
        (recipes / "many.yaml").write_text(wrong + FIELDS, encoding="utf-8")
        with pytest.raises(ValueError, match=word):
            choose(recipes, None, tmp_path, TeacherRecipe)

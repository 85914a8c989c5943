"""Presets: which values they stand for, what replaces these, and that the baselines are what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from command import compress, tiny_recipe, write_recipe
from families import batches_of, config_of, tiny_model

import compressor
from compressor.cli.options import to_recipe
from compressor.errors import UserError
from compressor.fusion import fuse_models
from compressor.fusion.teacher import prepare_teacher
from compressor.presets import PRESETS, preset
from compressor.recipe import FusionOptions, build_recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def options_of(name: str) -> FusionOptions:
    return FusionOptions(**preset(name)["fusion"])


@pytest.mark.parametrize("name", PRESETS.names())
def test_every_preset_is_a_valid_recipe(name):
    recipe = build_recipe({"teachers": ["a", "b"], "preset": name})
    assert not recipe.fusion.refit
    assert recipe == build_recipe({"teachers": ["a", "b"], **preset(name)})
    assert recipe.width == (0.5 if name == "slice" else 1)
    assert "preset" not in yaml.safe_load(recipe.to_yaml())


def test_paper_is_the_papers_recipe():
    recipe, made = read_recipe(RECIPES / "paper.yaml"), build_recipe({"teachers": ["a", "b"], "preset": "paper"})
    assert (made.fusion, made.calibration, made.width) == (recipe.fusion, recipe.calibration, recipe.width)


def test_a_preset_cannot_be_changed_from_outside():
    preset("paper")["fusion"]["alignment"]["solver"] = "emd"
    assert preset("paper")["fusion"]["alignment"]["solver"] == "sinkhorn"


def test_flags_replace_what_a_preset_says():
    flags = {"--teachers": ("a", "b"), "--solver": "emd", "--residual": "global", "--samples": 8, "--width": 0.25}
    recipe = to_recipe(flags, preset="paper")
    found = recipe.fusion.alignment
    assert (found.solver, recipe.fusion.residual, recipe.calibration.samples, recipe.width) == (
        "emd",
        "global",
        8,
        0.25,
    )
    assert (found.epsilon, found.heads, found.preparation) == (0.03, "across", "standardised")


@pytest.mark.parametrize("name", PRESETS.names())
def test_a_switch_turns_on_what_a_preset_turns_off(name):
    for given, wanted in ((False, True), (True, False), (None, False)):
        assert to_recipe({"--teachers": ("a", "b"), "--no-refit": given}, preset=name).fusion.refit is wanted


def test_the_command_refits_a_preset(capsys, tmp_path, vit_a, vit_b, image_folder):
    quick = ("--samples", 16, "--no-finetune", "--no-onnx", "--no-latency", "--output", tmp_path / "mean")
    arguments = ("--preset", "vanilla", "--refit", "--data", image_folder, *quick)
    code, _, err = compress(capsys, "fuse", vit_a, vit_b, *arguments)
    assert code == 0, err
    report = json.loads((tmp_path / "mean" / "report.json").read_text())
    assert read_recipe(tmp_path / "mean" / "recipe.yaml").fusion.refit
    assert report["recipe"]["fusion"]["refit"]


def test_a_recipes_own_values_replace_what_its_preset_says(tmp_path):
    values = {"teachers": ["a"], "preset": "vanilla", "fusion": {"refit": True}, "seed": 3}
    recipe = read_recipe(write_recipe(tmp_path / "recipe.yaml", values))
    assert (recipe.fusion.residual, recipe.fusion.refit, recipe.width, recipe.seed) == ("identity", True, 1, 3)


def test_an_anchor_gives_the_shape():
    assert to_recipe({"--teachers": ("a", "b"), "--anchor": "c"}, preset="paper").width == 0.5


@pytest.mark.parametrize("values", [{"preset": "magic"}, {"preset": 3}, {"preset": ["slice"]}])
def test_an_unknown_preset_is_answered_with_the_known_ones(values):
    with pytest.raises(UserError, match=r"unknown preset '.*' \(known: vanilla, slice, paper\)") as caught:
        build_recipe({"teachers": ["a"], **values})
    assert str(caught.value).startswith("recipe: ")


def test_values_beneath_are_checked_like_others():
    with pytest.raises(UserError, match="fusion: this should be a section with keys of its own, not 3"):
        build_recipe({"teachers": ["a"], "preset": "paper", "fusion": 3})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "magic"], "error: unknown preset 'magic' (known: vanilla, slice, paper)"),
        (["--preset", "vanilla", "--width", "0.5"], "give --width 1"),
        (["--preset", "paper", "--depth", "1"], "name one with --anchor"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, tmp_path, vit_a, vit_b, options, said):
    code, out, err = compress(capsys, "fuse", vit_a, vit_b, *options, "-o", tmp_path / "s")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_the_help_lists_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = compress(capsys, "fuse", "--help-all")[1]
    assert all(f"{name} (" in out for name in PRESETS.names())


@pytest.mark.parametrize("data", [True, False], ids=["data", "no-data"])
@pytest.mark.parametrize("family", ["vit", "bert", "llama", "t5"])
def test_vanilla_is_the_mean_of_the_weights(family, data):
    teachers = [(f"t{seed}", tiny_model(config_of(family), seed)) for seed in (1, 2)]
    batches = batches_of(config_of(family), 1, 4) if data else None
    result = fuse_models(teachers, 1.0, batches, options_of("vanilla")).model.state_dict()
    first, second = (model.state_dict() for _, model in teachers)
    for name, found in result.items():
        assert torch.allclose(found, (first[name] + second[name]) / 2, rtol=1e-6, atol=0)


def test_slice_keeps_entries_of_the_teacher():
    """Of BERT as they are; where norms are folded, of the folded weights, and the norms' scales are made anew."""
    for family in ("bert", "vit", "llama"):
        teacher = tiny_model(config_of(family), 1)
        result = fuse_models([("teacher", teacher)], 0.5, None, options_of("slice"))
        folded = prepare_teacher("teacher", teacher, 1.0).state
        made = {norm.module + ".weight" for norm in result.anatomy.norms if norm.folded}
        for name, found in result.model.named_parameters():
            assert name in made or torch.isin(found, folded[name]).all(), name
        kept = torch.linspace(0, 31, 16).round().long()
        if family == "bert":
            table = "bert.embeddings.word_embeddings.weight"
            assert torch.equal(result.model.state_dict()[table], teacher.state_dict()[table][:, kept])


def test_the_command_writes_the_resolved_recipe(capsys, tmp_path, vit_a, vit_b):
    quick = ("--no-onnx", "--no-latency", "--output", tmp_path / "mean")
    code, _, err = compress(capsys, "fuse", vit_a, vit_b, "--preset", "vanilla", *quick)
    assert code == 0, err
    written = yaml.safe_load((tmp_path / "mean" / "recipe.yaml").read_text())
    assert "preset" not in written
    assert (written["width"], written["fusion"]["residual"], written["fusion"]["refit"]) == (1.0, "identity", False)
    from compressor.models.folder.weights import load_model

    found, first, second = (load_model(folder).state_dict() for folder in (tmp_path / "mean", vit_a, vit_b))
    for name, value in found.items():
        wanted = (first[name] + second[name]) / 2
        assert (value - wanted).norm() <= 1e-6 * wanted.norm()


def test_a_recipe_file_may_name_one(capsys, tmp_path, vit_a, vit_b, image_folder):
    values = tiny_recipe([vit_a, vit_b], image_folder, tmp_path / "s", finetune={"enabled": False}, preset="paper")
    code, _, err = compress(capsys, "run", write_recipe(tmp_path / "recipe.yaml", values))
    assert code == 0, err
    written = read_recipe(tmp_path / "s" / "recipe.yaml")
    assert (written.fusion, written.width) == (options_of("paper"), 1)
    assert written.calibration.samples == 16


def test_python_takes_one(vit_a, vit_b):
    result = compressor.fuse([str(vit_a), str(vit_b)], preset="vanilla")
    assert result.model.config.hidden_size == 32
    sliced = compressor.fuse([str(vit_a)], width=0.75, preset="slice", residual="barycentre")
    assert sliced.model.config.hidden_size == 24
    assert sliced.report["choice"]["inner"] == "slice"
    assert sliced.report["choice"]["residual"].startswith("barycentre")
    with pytest.raises(UserError, match="unknown preset 'magic'"):
        compressor.fuse([str(vit_a)], preset="magic")

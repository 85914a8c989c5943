"""Scores in weight space: planes and lines pass through the models, and pictures appear whole or not at all."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys

import pytest
import torch
from command import compress
from tiny import CLASSES, save_vit
from tiny_text import save_plain, save_text_model

from compressor.anatomy import Map, apply, inspect_config
from compressor.anatomy.certificate import random_permutations
from compressor.anatomy.hooks import logits_of
from compressor.bench import weight_space as space
from compressor.errors import UserError
from compressor.models.folder.weights import load_model
from compressor.models.inputs import dummy_inputs

NAMES = ("anchor", "fused", "vanilla")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of three tiny ViTs of one shape."""
    root = tmp_path_factory.mktemp("landscape")
    return {name: save_vit(root / name, seed=seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def models(folders):
    return {name: load_model(folder).requires_grad_(False) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def plane(models):
    return space.plane_through(models)


@pytest.fixture(scope="module")
def permuted(folders, models, tmp_path_factory):
    """(folder of the anchor with every space permuted, folder of that one permuted back)."""
    root, model = tmp_path_factory.mktemp("permuted"), models["anchor"]
    anatomy = inspect_config(model.config)
    maps = random_permutations(anatomy.spaces.values(), torch.Generator().manual_seed(3))
    back = {name: Map(one.push.mT, one.pull.mT) for name, one in maps.items()}
    state = apply(maps, dict(model.named_parameters()), anatomy)
    made = []
    for name, moved in (("permuted", state), ("aligned", apply(back, state, anatomy))):
        other = load_model(shutil.copytree(folders["anchor"], root / name))
        other.load_state_dict(moved)
        other.save_pretrained(root / name)
        made.append(root / name)
    return made


def flat(state):
    return torch.cat([tensor.double().flatten() for tensor in state.values()])


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestPlane:
    def test_passes_through_the_models_exactly(self, plane, models):
        assert equal(plane.origin, models["anchor"].state_dict())
        for place, model in zip(plane.coordinates, models.values(), strict=True):
            assert equal(plane.at(*place), model.state_dict())

    def test_basis_is_orthonormal(self, plane):
        u, v = map(flat, plane.basis)
        assert u @ u == pytest.approx(1, abs=1e-12)
        assert v @ v == pytest.approx(1, abs=1e-12)
        assert u @ v == pytest.approx(0, abs=1e-12)

    def test_a_place_is_the_origin_and_steps_along_the_basis(self, plane):
        u, v = map(flat, plane.basis)
        wanted = flat(plane.origin) + 1.5 * u - 0.7 * v
        assert torch.allclose(flat(plane.at(1.5, -0.7)), wanted, rtol=0, atol=1e-6)

    def test_distances_are_those_of_the_weights(self, plane, models):
        for first, second in itertools.combinations(range(3), 2):
            one, other = (flat(list(models.values())[index].state_dict()) for index in (first, second))
            places = plane.coordinates[first], plane.coordinates[second]
            assert math.dist(*places) == pytest.approx(float((one - other).norm()), rel=1e-9)

    def test_the_grid_covers_the_models_with_a_margin_around_them(self, plane):
        xs, ys = space.grid_states(plane, 5, 0.5)
        across, up = zip(*plane.coordinates, strict=True)
        added = 0.5 * max(max(across) - min(across), max(up) - min(up))
        assert (xs[0], xs[-1]) == pytest.approx((min(across) - added, max(across) + added))
        assert (ys[0], ys[-1]) == pytest.approx((min(up) - added, max(up) + added))
        assert len(xs) == len(ys) == 5
        assert xs == sorted(xs) and ys == sorted(ys)

    def test_refuses_what_spans_no_plane(self, models):
        anchor, fused, _ = models.values()
        half = load_model(fused.config._name_or_path)
        half.load_state_dict(space.mix_states((anchor.state_dict(), fused.state_dict()), (0.5, 0.5)))
        with pytest.raises(UserError, match="one straight line"):
            space.plane_through({"a": anchor, "b": fused, "half": half})
        for three in ((anchor, anchor, fused), (anchor, fused, anchor), (fused, anchor, anchor)):
            with pytest.raises(UserError, match="have the same weights"):
                space.plane_through(dict(zip(NAMES, three, strict=True)))

    def test_a_triangle_may_be_flat(self, models):
        anchor, fused, vanilla = (model.state_dict() for model in models.values())
        near = load_model(models["fused"].config._name_or_path)
        near.load_state_dict(space.mix_states((anchor, fused, vanilla), (0.5, 0.499, 0.001)))
        flat_plane = space.plane_through({"a": models["anchor"], "b": models["fused"], "near": near})
        u, v = map(flat, flat_plane.basis)
        assert abs(float(u @ v)) < 1e-9
        assert v @ v == pytest.approx(1, abs=1e-9)
        assert equal(flat_plane.at(*flat_plane.coordinates[2]), near.state_dict())

    def test_tied_weights_count_once(self, tmp_path):
        made = {name: load_model(save_text_model(tmp_path / name, "decoder", seed=i)) for i, name in enumerate(NAMES)}
        over = space.plane_through(made)
        one, other, _ = (flat(dict(model.named_parameters())).detach() for model in made.values())
        assert over.coordinates[1][0] == pytest.approx(float((one - other).norm()), rel=1e-9)
        for place, model in zip(over.coordinates, made.values(), strict=True):
            assert equal(over.at(*place), model.state_dict())


class TestLine:
    def test_its_ends_are_the_models(self, models):
        first, second = (models[name].state_dict() for name in NAMES[:2])
        states = list(space.interpolated_states(first, second, (0.0, 0.25, 1.0)))
        assert equal(states[0], first) and equal(states[2], second)
        assert torch.allclose(flat(states[1]), 0.75 * flat(first) + 0.25 * flat(second), rtol=0, atol=1e-7)

    def test_what_is_not_floating_is_the_first_ones(self):
        first, second = ({"w": torch.ones(2) * i, "steps": torch.tensor(i)} for i in (1, 3))
        (half,) = space.interpolated_states(first, second, (0.5,))
        assert half["w"].tolist() == [2, 2] and half["w"].dtype == torch.float32
        assert half["steps"] == 1

    def test_a_permuted_model_is_the_same_function_with_another_one_in_between(self, models, permuted):
        model, moved, back = models["anchor"], *map(load_model, permuted)
        inputs = dummy_inputs(model.config, 8)
        with torch.no_grad():
            wanted = logits_of(model, inputs)
            assert torch.allclose(logits_of(moved, inputs), wanted, atol=1e-5)
            (half,) = space.interpolated_states(model.state_dict(), moved.state_dict(), (0.5,))
            moved.load_state_dict(half)
            assert not torch.allclose(logits_of(moved, inputs), wanted, atol=1e-2)
            for state in space.interpolated_states(model.state_dict(), back.state_dict(), (0.0, 0.5, 1.0)):
                assert equal(state, model.state_dict())

    def test_barrier(self):
        shares = (0.0, 0.5, 1.0)
        assert space.loss_barrier(shares, (0.6, 0.2, 0.8), "accuracy") == pytest.approx(0.5)
        assert space.loss_barrier(shares, (0.6, 0.9, 0.8), "accuracy") == 0
        assert space.loss_barrier(shares, (2.0, 32.0, 8.0), "perplexity") == pytest.approx(math.log(8))
        assert space.loss_barrier(shares, (2.0, None, 8.0), "perplexity") is None


def test_scores_are_those_of_the_states(models):
    batches = [dummy_inputs(models["anchor"].config, 16) | {"labels": torch.arange(16) % 4}]
    scratch = load_model(models["anchor"].config._name_or_path)
    states = [model.state_dict() for model in models.values()]
    found = list(space.score_states(scratch, states, batches))
    assert found == space.measure_accuracy(list(models.values()), batches)


def test_a_score_that_is_no_number_is_none():
    assert space.score_value(space.Score(None, None, 1, 1, perplexity=math.nan), "perplexity") is None
    assert space.score_value(space.Score(0.25, None, 1, 1), "accuracy") == 0.25


QUICK = ("--points", 3, "--eval-samples", 8)


@pytest.mark.parametrize("name", ["landscape", "interpolate"])
def test_the_commands_explain_themselves(capsys, name):
    code, out, err = compress(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert f"Example: compress {name}" in out


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_landscape_writes_picture_and_numbers(capsys, folders, models, image_folder, tmp_path, suffix):
    picture = tmp_path / "new" / f"map{suffix}"
    code, out, err = compress(
        capsys, "landscape", *folders.values(), "--data", image_folder, *QUICK, "--margin", 0.1, "-o", picture
    )
    assert (code, err) == (0, "")
    assert f"wrote {picture} and {picture.with_suffix('.json')}" in out
    assert "best of 9 points" in out and all(name in out for name in NAMES)
    assert picture.read_bytes()[:5] == (b"<?xml" if suffix == ".svg" else b"\x89PNG\r")
    assert sorted(path.name for path in picture.parent.iterdir()) == ["map.json", picture.name]
    found = json.loads(picture.with_suffix(".json").read_text())
    assert [model["name"] for model in found["models"]] == list(NAMES)
    assert [(model["x"], model["y"]) for model in found["models"]] == list(space.plane_through(models).coordinates)
    assert [len(row) for row in found["scores"]] == [3, 3, 3]
    assert (found["metric"], found["samples"]) == ("accuracy", 8)
    evaluated = compress(capsys, "evaluate", *folders.values(), "--data", image_folder, "--eval-samples", 8, "--json")
    rows = json.loads(evaluated[1])["rows"]
    assert [model["score"] for model in found["models"]] == [row["accuracy"] for row in rows]
    assert [model["fingerprint"] for model in found["models"]] == [row["fingerprint"] for row in rows]
    scores = [score for row in found["scores"] for score in row]
    assert found["best"]["score"] == max(*scores, *(row["accuracy"] for row in rows))


def test_interpolate_draws_before_and_after(capsys, folders, permuted, image_folder, tmp_path):
    picture = tmp_path / "curve.svg"
    code, out, err = compress(
        capsys, "interpolate", folders["anchor"], *permuted, "--data", image_folder, *QUICK, "-o", picture, "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    written = json.loads(picture.with_suffix(".json").read_text())
    assert found == written | {"numbers": str(picture.with_suffix(".json")), "picture": str(picture)}
    assert (written["numbers"], written["picture"]) == ("curve.json", "curve.svg")
    assert picture.exists()
    before, after = found["curves"]
    assert (before["end"], after["end"]) == ("permuted", "aligned")
    assert found["shares"] == [0, 0.5, 1]
    assert len(before["scores"]) == 3
    assert len(set(after["scores"])) == 1 and after["barrier"] == 0
    scores = [model["score"] for model in found["models"]]
    assert scores == [before["scores"][0], before["scores"][-1], after["scores"][-1]]


def test_language_models_are_measured_by_perplexity(capsys, tmp_path):
    text = save_plain(tmp_path / "plain.txt")
    names = [save_text_model(tmp_path / name, "decoder", seed=seed) for seed, name in enumerate(NAMES)]
    options = ("--data", text, *QUICK, "--max-length", 8)
    code, out, err = compress(capsys, "landscape", *names, *options, "-o", tmp_path / "map.png")
    assert (code, err) == (0, "")
    assert "perplexity" in out and "tokens" in out
    found = json.loads((tmp_path / "map.json").read_text())
    scores = [score for row in found["scores"] for score in row]
    assert min(scores) > 1
    assert found["best"]["score"] == min(*scores, *(model["score"] for model in found["models"]))
    code, out, err = compress(capsys, "interpolate", *names[:2], *options, "-o", tmp_path / "curve.png")
    assert (code, err) == (0, "")
    assert "nats" in out


def test_points_without_a_number_are_left_blank(tmp_path):
    from compressor.report.landscape_figures import describe_landscape, draw_curves, draw_plane

    places = [(9.0, 0, 0), (9.5, 1, 0), (None, 1, 2)]
    models = [{"name": f"a$b{i}$", "score": score, "x": x, "y": y} for i, (score, x, y) in enumerate(places)]
    shared = {"metric": "perplexity", "models": models, "data": "d", "samples": 1, "labelled": 2}
    files = {"picture": "p.svg", "numbers": "p.json"}
    scores = [[None, 1e300, 9.0], [None, None, None], [9.0, 10.0, 1e4]]
    plane = {**shared, **files, "kind": "landscape", "xs": [-1, 0, 1], "ys": [-1, 0, 1], "scores": scores, "best": None}
    curve = {"start": "a", "end": "b", "scores": [9.0, None, 9.5], "barrier": None}
    line = {**shared, **files, "kind": "interpolation", "shares": [0, 0.5, 1], "curves": [curve]}
    nothing = {**plane, "scores": [[None] * 3] * 3}
    same = {**plane, "metric": "accuracy", "scores": [[0.5] * 3] * 3}
    for index, found in enumerate((plane, nothing, same)):
        draw_plane(found, tmp_path / f"{index}.svg")
        assert "–" in [str(cell) for cell in describe_landscape(found)[0].columns[1].cells]
    draw_curves(line, tmp_path / "line.svg")
    assert "barrier unknown" in describe_landscape(line)[1]
    assert len(list(tmp_path.iterdir())) == 4


def refused(capsys, *arguments, said):
    code, out, err = compress(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err


class TestRefusals:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_existing_files(self, capsys, folders, image_folder, tmp_path):
        command = ("interpolate", *list(folders.values())[:2], "--data", image_folder, *QUICK, "-o", "curve.svg")
        for name in ("curve.svg", "curve.json"):
            (tmp_path / name).write_text("mine")
            refused(capsys, *command, said="--force")
            assert [path.name for path in tmp_path.iterdir()] == [name]
            assert (tmp_path / name).read_text() == "mine"
            (tmp_path / name).unlink()
        (tmp_path / "curve.json").write_text("mine")
        assert compress(capsys, *command, "--force")[0] == 0
        assert json.loads((tmp_path / "curve.json").read_text())["kind"] == "interpolation"

    @pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
    def test_nothing_is_half_written(self, capsys, folders, image_folder, tmp_path, monkeypatch, stop):
        from compressor.pipeline import landscape

        def broken(found, path):
            path.write_text("half")
            raise stop(28, "No space left on device")

        monkeypatch.setattr(landscape, "draw_curves", broken)
        command = ("interpolate", *list(folders.values())[:2], "--data", image_folder, *QUICK, "-o", "curve.svg")
        (tmp_path / "curve.svg").write_text("mine")
        code, out, err = compress(capsys, *command, "--force")
        assert (code, out, err.count("\n")) == (130 if stop is KeyboardInterrupt else 2, "", 1)
        assert [path.name for path in tmp_path.iterdir()] == ["curve.svg"]
        assert (tmp_path / "curve.svg").read_text() == "mine"

    def test_a_file_that_appears_meanwhile_is_not_lost(self, capsys, folders, image_folder, tmp_path, monkeypatch):
        from compressor.pipeline import landscape

        monkeypatch.setattr(
            landscape, "draw_curves", lambda found, path: [path.touch(), (tmp_path / path.name).touch()]
        )
        command = ("interpolate", *list(folders.values())[:2], "--data", image_folder, *QUICK, "-o", "curve.svg")
        refused(capsys, *command, said="it is kept in")
        (kept,) = tmp_path.glob(".curve.svg.*.partial")
        assert sorted(path.name for path in kept.iterdir()) == ["curve.json", "curve.svg"]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"hidden": 48, "heads": 6}, "1×1×32 in anchor and 1×1×48 in other"),
            ({"layers": 1}, "missing in other"),
            ({"heads": 2}, "num_attention_heads"),
            ({"classes": (*CLASSES, "owl")}, "differ in classes"),
        ],
        ids=["width", "depth", "heads", "classes"],
    )
    def test_models_of_other_shapes(self, capsys, folders, image_folder, tmp_path, options, said):
        other = save_vit(tmp_path / "other", seed=3, **options)
        data = ("--data", image_folder, *QUICK)
        refused(capsys, "interpolate", folders["anchor"], other, *data, said=said)
        refused(capsys, "landscape", folders["anchor"], folders["fused"], other, *data, said=said)
        assert [path.name for path in tmp_path.iterdir()] == ["other"]

    def test_another_vocabulary(self, capsys, tmp_path):
        text = save_plain(tmp_path / "plain.txt")
        one, other = (save_text_model(tmp_path / str(size), "llama", vocab_size=size) for size in (22, 30))
        refused(capsys, "interpolate", one, other, "--data", text, said="vocabulary size")

    def test_the_same_model_twice(self, capsys, folders, image_folder):
        anchor, fused, _ = folders.values()
        refused(capsys, "landscape", anchor, anchor, fused, "--data", image_folder, *QUICK, said="the same weights")

    @pytest.mark.parametrize("output", ["curve.pdf", "curve"])
    def test_another_kind_of_picture(self, capsys, folders, output):
        refused(capsys, "interpolate", *list(folders.values())[:2], "-o", output, said="ends with .svg or .png")

    def test_a_folder_in_the_way(self, capsys, folders, tmp_path):
        (tmp_path / "curve.svg").mkdir()
        refused(capsys, "interpolate", *list(folders.values())[:2], "--force", said="is not a plain file")

    def test_no_data(self, capsys, folders):
        refused(capsys, "landscape", *folders.values(), said="--data")

    def test_no_labels(self, capsys, folders, image_folder, tmp_path):
        flat_folder = tmp_path / "unlabelled"
        flat_folder.mkdir()
        for index, image in enumerate(sorted(image_folder.rglob("*.png"))[:10]):
            shutil.copy(image, flat_folder / f"{index}.png")
        refused(capsys, "landscape", *folders.values(), "--data", flat_folder, *QUICK, said="label")

    def test_no_matplotlib(self, capsys, folders, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        refused(capsys, "landscape", *folders.values(), said="pip install 'compressor[plots]'")

"""That a budget picks the width that meets it, and that the recipe that is written needs no budget."""

import json

import pytest
import yaml
from command import compress, tiny_recipe
from transformers import LlamaConfig, ViTConfig

from compressor.anatomy import inspect_config
from compressor.bench.size import count_macs, count_parameters
from compressor.cli.options import to_recipe
from compressor.errors import UnsupportedError, UserError
from compressor.pipeline import budget, run_timing
from compressor.pipeline.budget import WidthCandidates, liked_widths, pick_width
from compressor.pipeline.teachers import plan_target
from compressor.recipe import TargetOptions, build_recipe, read_recipe


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Teachers of eight heads of four channels."""
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    config.architectures = ["ViTForImageClassification"]
    return [config, config]


@pytest.fixture(scope="module")
def shape(configs):
    return budget.shape_of(configs)


@pytest.fixture(autouse=True)
def understood_once(configs, shape, monkeypatch):
    """To understand the same config again and again would take most of the time."""
    real = budget.shape_of
    monkeypatch.setattr(budget, "shape_of", lambda given: shape if given is configs else real(given))


def asked(**values):
    return TargetOptions.model_validate(values)


class TestRecipe:
    @pytest.mark.parametrize(
        ("given", "meant"),
        [("6M", 6e6), ("600k", 6e5), ("1.5 G", 1.5e9), ("2b", 2e9), (0.25, 0.25), ("0.25", 0.25), ("1e3", 1e3)],
    )
    def test_counts(self, given, meant):
        assert asked(params=given).params == asked(flops=given).flops == meant

    @pytest.mark.parametrize(("given", "meant"), [("5ms", 5.0), ("0.5 s", 500.0), (7, 7.0), ("2.5", 2.5)])
    def test_times(self, given, meant):
        assert asked(latency=given).latency == meant

    @pytest.mark.parametrize("wrong", ["5ms", "much", "1.2.3M", "-1", -1, 0, "nan"])
    def test_others_are_refused(self, wrong):
        with pytest.raises(UserError, match="--target-params"):
            to_recipe({"--teachers": ("a",), "--target-params": wrong})

    def test_one_thing_gives_the_width(self):
        for other in ({"width": 0.5}, {"fusion": {"anchor": "n"}}, {"student": "s"}):
            with pytest.raises(UserError, match="leave one of them out"):
                build_recipe({"teachers": ["a"], "target": {"params": "1M"}, **other})
        with pytest.raises(UserError, match="exclude each other"):
            build_recipe({"teachers": ["a"], "target": {"params": "1M", "flops": 0.5}})
        assert build_recipe({"teachers": ["a"], "width": 0.5, "target": {"params": None}}).width == 0.5

    def test_a_preset_gives_way(self):
        recipe = build_recipe({"preset": "paper", "teachers": ["a"], "target": {"params": 0.5}})
        assert recipe.target.params == 0.5 and "width" not in recipe.model_fields_set


class TestShapes:
    def test_whole_heads_and_multiples_of_eight(self, shape):
        # Four heads of two channels make eight.
        assert liked_widths(*shape[:2]) == (0.25, 0.5, 0.75, 1.0)

    def test_shapes_that_are_not_liked_are_better_than_none(self):
        odd = ViTConfig(hidden_size=30, num_hidden_layers=1, num_attention_heads=3, intermediate_size=50, image_size=8,
                        patch_size=4)  # fmt: skip
        odd.architectures = ["ViTForImageClassification"]
        found = [plan_target([odd], width)[0][0].config for width in liked_widths(odd, inspect_config(odd))]
        assert [(config.hidden_size, config.num_attention_heads) for config in found] == [(24, 3), (30, 3)]

    def test_free_head_size(self):
        config = LlamaConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=88,
            vocab_size=50,
        )  # fmt: skip
        config.architectures = ["LlamaForCausalLM"]
        found = liked_widths(config, inspect_config(config))
        assert found[-1] == 1.0 and len(found) > 4
        for width in found:
            (target, *_), _ = plan_target([config], width)
            assert target.config.hidden_size % 8 == target.config.intermediate_size % 8 == 0
            assert target.config.num_attention_heads == 2 * target.config.num_key_value_heads


class TestCounts:
    @pytest.mark.parametrize("what", ["params", "flops"])
    def test_the_nearest_is_picked(self, configs, what):
        candidates = WidthCandidates(configs)
        costs = [candidates.cost(index, what) for index in range(len(candidates))]
        assert costs == sorted(costs)
        for width, cost in zip(candidates.widths, costs, strict=True):
            for factor in (0.97, 1.03):
                assert candidates.widths[candidates.nearest(factor * cost, what)] == width
            assert pick_width(configs, asked(**{what: cost})).width == width

    def test_shares_are_of_the_widest_teacher(self, configs):
        found = pick_width(configs, asked(flops=0.3))
        assert found.width == 0.5
        assert found.report["given"]["flops"] == count_macs(plan_target(configs, 0.5)[0][0].config)
        whole = pick_width(configs, asked(params=count_parameters(configs[0])))
        assert whole.width == 1.0

    def test_the_depth_stays(self, configs):
        found = pick_width(configs, asked(params=0.3), depth=1)
        (target, *_), _ = plan_target(configs, found.width, 1)
        assert found.report["given"]["params"] == count_parameters(target.config)

    @pytest.mark.parametrize(("wanted", "nearest"), [("1k", r"width 0\.25 with"), ("6M", "width 1 with")])
    def test_the_impossible_names_the_nearest(self, configs, wanted, nearest):
        with pytest.raises(UserError, match=rf"no student has {wanted[0]} {wanted[1]} parameters: .*{nearest}"):
            pick_width(configs, asked(params=wanted))


class TestLatency:
    @pytest.fixture(autouse=True)
    def timed(self, monkeypatch):
        """A machine that takes a millisecond for every 8 channels."""
        self.tried = []

        def measured(timer, config):
            self.tried.append(config.hidden_size)
            return config.hidden_size / 8

        monkeypatch.setattr(budget._Timer, "_measured", measured)

    @pytest.mark.parametrize(("limit", "width"), [(1.0, 0.25), (2.9, 0.5), (3.0, 0.75), (9.0, 1.0)])
    def test_the_widest_that_is_fast_enough(self, configs, limit, width):
        found = pick_width(configs, asked(latency=limit))
        assert found.width == width and found.report["given"]["p50_ms"] <= limit
        assert len(self.tried) == len(set(self.tried))

    def test_none_is(self, configs):
        with pytest.raises(UserError, match=r"at most 0\.5 ms here: the nearest is width 0\.25 with 1 ms"):
            pick_width(configs, asked(latency=0.5))

    def test_with_a_size(self, configs):
        assert pick_width(configs, asked(params=0.3, latency=9)).width == 0.5
        assert pick_width(configs, asked(params=0.3, latency=1)).width == 0.25


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_candidate_is_measured(configs, backend, tmp_path, monkeypatch):
    import onnx

    def exported(model, folder):
        if backend == "torch":
            raise UnsupportedError("no file")
        # Any file that reads pictures: tracing the model takes long.
        value = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 3, 8, 8]) for name in ("pixel_values", "out")]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["pixel_values"], ["out"])], "g", *zip(value))
        opsets = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    monkeypatch.setattr(run_timing, "export_to_time", exported)
    monkeypatch.setattr(budget, "SECONDS", 0.01)
    found = pick_width(configs, asked(latency="10s", batch_size=2), thread_count=1)
    assert found.width == 1.0 and 0 < found.report["given"]["p50_ms"] < 1e4
    assert found.report["latency"]["backend"] == backend and found.report["latency"]["batch_size"] == 2


@pytest.mark.slow
def test_the_written_recipe_has_the_width(capsys, vit_a, vit_b, image_folder, tmp_path):
    from compressor.pipeline.run.run import run_recipe as job

    values = tiny_recipe(
        [vit_a, vit_b], image_folder, tmp_path / "s", finetune={"enabled": False}, target={"params": 0.3}
    )
    report = job(build_recipe(values))
    assert report["budget"]["asked"] == {"params": 0.3, "batch_size": 1}
    written = read_recipe(tmp_path / "s" / "recipe.yaml")
    assert written.width == 0.5 and not written.target.asked
    # With another output, and so through the flags.
    code, out, _ = compress(capsys, "run", tmp_path / "s" / "recipe.yaml", "-o", tmp_path / "again", "--json")
    assert code == 0 and json.loads(out)["student"] == report["student"]


def test_a_recipe_with_a_target_takes_flags_too(capsys, vit_a, tmp_path):
    values = {"teachers": [str(vit_a)], "target": {"params": "900G"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    code, _, err = compress(capsys, "run", tmp_path / "r.yaml", "-o", tmp_path / "s")
    assert code == 2 and "900 G parameters: the nearest is width 1" in err


def test_plan(capsys, vit_a, vit_b):
    code, out, _ = compress(capsys, "plan", vit_a, vit_b, "--target-flops", 0.25, "--json")
    found = json.loads(out)
    assert code == 0 and found["target"]["asked_width"] == 0.5
    assert found["student"]["macs"] == found["budget"]["given"]["flops"]
    code, out, _ = compress(capsys, "plan", vit_a, vit_b, "--target-flops", 0.25)
    assert code == 0 and "0.25 of the widest teacher's MACs asked" in out and "0.5 picked" in out
    assert "e+0" not in out
    code, out, _ = compress(capsys, "plan", vit_a, vit_b, "--target-params", "11k")
    assert code == 0 and "target: 11 k parameters asked; the nearest width has " in out and " k\n" in out


def test_a_resumed_run_keeps_its_width(vit_a, tmp_path):
    from compressor.pipeline.run.preflight import resolve_width

    work = tmp_path / "s.work"
    recipe = build_recipe({"teachers": [str(vit_a)], "output": str(tmp_path / "s"), "target": {"latency": "1ms"}})
    from compressor.utils.files import work_folder

    work = work_folder(recipe.output)
    work.mkdir()
    (work / "state.json").write_text(json.dumps({"key": {"width": 0.75}}))
    settled, _ = resolve_width(recipe, resume=True)
    assert settled.width == 0.75 and not settled.target.asked

"""Fusion undoes a widening exactly, keeps its marginals, and beats slicing where it cannot be exact."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from families import batches_of, config_of, family_params, tiny_model, trained_model, widen

from compressor.anatomy import inspect_config
from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import ensemble_predictions, mean_kl
from compressor.errors import UnsupportedError, UserError
from compressor.fusion import fuse_models, student_specs
from compressor.fusion.build.ridge import fit_ridge
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.statistics import Regression
from compressor.fusion.features.base import HeadStatistics
from compressor.fusion.maps.attention.mixed_head_dims import unlike_maps
from compressor.fusion.maps.residual import zero_mean_basis
from compressor.fusion.shape.depth import align_monotone, linear_cka
from compressor.models.inputs import without_labels
from compressor.pipeline.teachers import plan_target
from compressor.recipe import FusionOptions
from compressor.testing.tasks import task_for, train_briefly

TRANSPORT = {"residual": "barycentre", "inner": "transport"}


def relative_error(model, reference, config) -> float:
    """On inputs that no calibration has seen."""
    inputs = batches_of(config, 1, 8, first_seed=5)[0]
    wanted = logits_of(reference, inputs)
    return float((logits_of(model, inputs) - wanted).abs().max() / wanted.abs().max())


@pytest.fixture(scope="module", params=family_params(("vit", "bert", "llama"), fast=("llama",)))
def pair(request):
    """(narrow model, two function-preserving widenings of it) in float64."""
    narrow = tiny_model(config_of(request.param))
    return narrow, [("one", widen(narrow, 1)), ("two", widen(narrow, 2))]


@pytest.mark.parametrize("family", family_params())
def test_every_family_is_recovered_from_its_widening(family):
    narrow = tiny_model(config_of(family))
    result = fuse_models(
        [("wide", widen(narrow, 1))], 0.5, batches_of(narrow.config, 4, 24), FusionOptions(**TRANSPORT)
    )
    if result.anatomy.output is None:
        assert relative_error(result.model, narrow, narrow.config) < 1e-4
    else:
        # Features come back in another order: what stays is how tokens compare.
        inputs = batches_of(narrow.config, 1, 8, first_seed=5)[0]
        found, wanted = (
            x.reshape(-1, x.shape[-1]) for x in (logits_of(result.model, inputs), logits_of(narrow, inputs))
        )
        assert torch.allclose(found @ found.T, wanted @ wanted.T, atol=1e-4 * float((wanted @ wanted.T).max()))


class TestRecovery:
    """A teacher whose every space was duplicated and shuffled is recovered at half width."""

    @pytest.mark.parametrize("teachers", [1, 2])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"refit": False},
            {"residual": "barycentre", "inner": "transport"},
            {"alignment": {"solver": "sinkhorn", "epsilon": 1e-3}},
        ],
        ids=["automatic", "no-refit", "transport", "sinkhorn"],
    )
    def test_from_activations(self, pair, teachers, options):
        narrow, wide = pair
        result = fuse_models(wide[:teachers], 0.5, batches_of(narrow.config, 6, 24), FusionOptions(**options))
        assert result.model.config.hidden_size == narrow.config.hidden_size
        assert relative_error(result.model, narrow, narrow.config) < 1e-4

    @pytest.mark.parametrize("teachers", [1, 2])
    def test_from_weights_alone(self, pair, teachers):
        narrow, wide = pair
        result = fuse_models(wide[:teachers], 0.5, None)
        assert relative_error(result.model, narrow, narrow.config) < 1e-4

    @pytest.mark.parametrize(
        "options",
        [
            {"alignment": {"features": "weights"}},
            {"alignment": {"features": "weights"}, "refit": False},
            {"alignment": {"cost": "cosine"}},
        ],
    )
    def test_from_weights_though_there_is_data_and_by_cosine(self, pair, options):
        narrow, wide = pair
        result = fuse_models(
            wide, 0.5, batches_of(narrow.config, 6, 24), FusionOptions(residual="barycentre", **options)
        )
        assert relative_error(result.model, narrow, narrow.config) < 1e-4

    def test_selection_and_refit_recover_too(self, pair):
        narrow, wide = pair
        result = fuse_models(wide[:1], 0.5, batches_of(narrow.config, 6, 24), FusionOptions(inner="select"))
        assert relative_error(result.model, narrow, narrow.config) < 1e-4


def independent(family: str, seeds=(1, 2)):
    return [(f"t{seed}", tiny_model(config_of(family), seed)) for seed in seeds]


def held_out_kl(model, teachers, config) -> float:
    batches = batches_of(config, 2, 16, first_seed=900)
    share = [1 / len(teachers)] * len(teachers)
    target = [ensemble_predictions([m for _, m in teachers], share, batch) for batch in batches]
    return mean_kl(model, batches, target)


@pytest.mark.parametrize("family", family_params(("vit", "bert", "llama"), fast=("vit",)))
def test_refit_beats_slicing_on_unseen_inputs(family):
    """Teachers that have learned something, as far apart as two seeds are."""
    config = config_of(family)
    teachers = [(f"t{seed}", trained_model(family, seed)) for seed in (1, 2)]
    task = task_for(config)
    batches, unseen = ([without_labels(task.batch(first + i)) for i in range(6)] for first in (1, 101))
    target = [ensemble_predictions([model for _, model in teachers], [0.5, 0.5], batch) for batch in unseen]
    sliced = fuse_models(teachers, 0.5, batches, FusionOptions(residual="slice", inner="slice", refit=False))
    fused = fuse_models(teachers, 0.5, batches)
    assert mean_kl(fused.model, unseen, target) < mean_kl(sliced.model, unseen, target) / 3


def test_teachers_stay_as_they_are():
    teachers = independent("vit")
    before = [{name: p.clone() for name, p in model.named_parameters()} for _, model in teachers]
    fuse_models(teachers, 0.5, batches_of(teachers[0][1].config))
    for (_, model), state in zip(teachers, before, strict=True):
        assert all(torch.equal(p, state[name]) for name, p in model.named_parameters())
        assert not any("forward" in vars(module) for module in model.modules())


def test_same_seed_same_weights():
    teachers, batches = independent("vit"), batches_of(config_of("vit"))
    first, second = (fuse_models(teachers, 0.5, batches, seed=3).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


ORDERED = {
    "automatic": {},
    "barycentre": {"residual": "barycentre", "inner": "transport", "refit": False},
    "slice": {"residual": "slice", "inner": "slice", "refit": False},
}


def three_of_two_widths():
    wide = config_of("vit")
    wide.hidden_size, wide.num_attention_heads, wide.intermediate_size = 48, 6, 96
    return [*independent("vit"), ("t3", tiny_model(wide, 3))]


class TestOrder:
    """Without an anchor, which teacher is named first changes not one bit of the student."""

    @pytest.mark.parametrize("weights", [None, (1.0, 0.3, 0.1)], ids=["auto", "weights"])
    @pytest.mark.parametrize("options", ORDERED.values(), ids=ORDERED)
    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda: independent("vit"), id="two", marks=pytest.mark.slow),
            pytest.param(three_of_two_widths, id="three"),
        ],
    )
    def test_it_changes_no_weight(self, make, options, weights):
        teachers, batches = make(), batches_of(config_of("vit"), 2, 8)
        made = []
        for order in ([0, 1, 2], [1, 2, 0]) if len(teachers) == 3 else ([0, 1], [1, 0]):
            more = {} if weights is None else {"weights": [weights[k] for k in order]}
            made.append(fuse_models([teachers[k] for k in order], 0.5, batches, FusionOptions(**options, **more)))
        one, other = (result.model.state_dict() for result in made)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert made[0].report["choice"]["weights"] == made[1].report["choice"]["weights"]

    def test_nor_without_data_nor_for_twins_of_unlike_weight(self):
        model = tiny_model(config_of("bert"), 1)
        for teachers, weights in ((independent("bert"), None), ([("one", model), ("two", model)], (1.0, 3.0))):
            one, other = (
                fuse_models(
                    teachers[::step], 0.5, None, FusionOptions(**({"weights": weights[::step]} if weights else {}))
                )
                for step in (1, -1)
            )
            found = other.model.state_dict()
            assert all(torch.equal(value, found[name]) for name, value in one.model.state_dict().items())

    def test_the_report_keeps_the_users_order(self):
        teachers = three_of_two_widths()
        for order in itertools.permutations(teachers):
            names = [name for name, _ in order]
            report = fuse_models(order, 0.5, None, FusionOptions(**ORDERED["barycentre"])).report
            assert all(list(report["choice"][key]) == names for key in ("shares", "weights"))
            assert list(report["certificate"]) == names
            sizes = {"t1": 32, "t2": 32, "t3": 48}
            found = [coupling for coupling in report["couplings"] if coupling["space"] == "residual"]
            assert [(one["teacher"], one["source"]) for one in found] == [(name, sizes[name]) for name in names]

    def test_among_teachers_of_one_width_the_widest_spaces_give_the_shape(self):
        config = config_of("vit")
        config.intermediate_size *= 2
        teachers = [*independent("vit", (1,)), ("more", tiny_model(config, 2))]
        for order in (teachers, teachers[::-1]):
            assert fuse_models(order, 0.5, None).model.config.intermediate_size == config.intermediate_size // 2
            (target, *_), _ = plan_target([model.config for _, model in order], 0.5)
            assert target.config.intermediate_size == config.intermediate_size // 2


def test_weights_reach_every_parameter():
    """With all weight on one teacher, nothing of the other is left in a pure transport."""
    teachers, batches = independent("vit"), batches_of(config_of("vit"))
    options = FusionOptions(residual="barycentre", inner="slice", refit=False, weights=(1, 0))
    together = fuse_models(teachers, 0.5, batches, options).model
    swapped = fuse_models([teachers[0], ("t9", tiny_model(config_of("vit"), 9))], 0.5, batches, options).model
    inputs = batches[0]
    assert torch.allclose(logits_of(together, inputs), logits_of(swapped, inputs), atol=1e-8)


def test_padding_does_not_change_the_student(monkeypatch):
    # Fewer than there are: then every second token chooses units, of the real ones.
    monkeypatch.setattr("compressor.fusion.features.activations.UNIT_TOKENS", 384)
    config = config_of("bert")
    teachers = independent("bert")
    batches = batches_of(config, 4, 16)
    padded = []
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        extra = torch.full((len(ids), 5), config.pad_token_id)
        padded.append(
            {"input_ids": torch.cat([ids, extra], 1), "attention_mask": torch.cat([mask, torch.zeros_like(extra)], 1)}
        )
    plain, other = fuse_models(teachers, 0.5, batches).model, fuse_models(teachers, 0.5, padded).model
    assert torch.allclose(logits_of(plain, batches[0]), logits_of(other, batches[0]), atol=1e-6)


def test_full_width_of_one_teacher_is_the_teacher():
    teachers = independent("vit", (1,))
    config = teachers[0][1].config
    result = fuse_models(teachers, 1.0, batches_of(config, 6, 32))
    assert relative_error(result.model, teachers[0][1], config) < 1e-4


def test_teachers_of_different_width():
    narrow = tiny_model(config_of("vit"))
    result = fuse_models([("wide", widen(narrow)), ("narrow", narrow)], 0.5, batches_of(narrow.config, 6, 24))
    assert result.model.config.hidden_size == narrow.config.hidden_size
    assert relative_error(result.model, narrow, narrow.config) < 1e-4


def test_a_given_anchor_gives_shape_and_coordinates():
    narrow = tiny_model(config_of("vit"))
    teachers = [("wide", widen(narrow))]
    result = fuse_models(teachers, 0.5, batches_of(narrow.config, 6, 24), anchor=("anchor", narrow))
    assert result.report["choice"]["residual"].startswith("anchor")
    assert relative_error(result.model, narrow, narrow.config) < 1e-4


def test_couplings_are_reported_with_their_marginals():
    teachers = independent("vit")
    report = fuse_models(teachers, 0.5, batches_of(config_of("vit")), FusionOptions(residual="barycentre")).report
    assert {c["space"] for c in report["couplings"]} >= {"residual", "vit.layers.0.attention", "vit.layers.1.ffn"}
    assert all(c["marginal_error"] < 1e-6 for c in report["couplings"])
    assert report["choice"]["shapes"] and report["seconds"]["total"] > 0


@pytest.mark.parametrize("width", [0.01, 0.1])
def test_a_width_that_leaves_no_head_is_refused(width):
    with pytest.raises(UserError, match="leaves none of the 4 attention heads"):
        fuse_models(independent("vit", (1,)), width, None)


def test_target_is_rounded_to_whole_heads_and_says_so():
    config = config_of("vit")
    for narrowing, heads in (("fewer-heads", 2), ("smaller-heads", 4)):
        (target,) = student_specs(config, inspect_config(config), 0.6, narrowing=narrowing)
        assert (target.config.num_attention_heads, target.config.hidden_size) == (heads, 16)
        assert (target.asked_width, target.given_width, target.narrowing) == (0.6, 0.5, narrowing)


def test_unknown_maps_and_solvers_are_answered_with_the_known_ones():
    teachers, batches = independent("vit"), batches_of(config_of("vit"))
    for wrong in (
        {"residual": "magic"}, {"inner": "magic"}, {"alignment": {"solver": "magic"}}, {"alignment": {"cost": "magic"}},
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"magic.*known"):
            fuse_models(
                teachers, 0.5, batches, FusionOptions(**{"residual": "barycentre", "inner": "transport", **wrong})
            )
    with pytest.raises(UserError, match=r"'magic' \(known: auto, select, "):
        fuse_models(teachers, 0.5, batches, FusionOptions(inner="magic"))


class TestDepth:
    """Layers stand for each other by what they do to the residual stream."""

    def test_layers_that_do_nothing_are_skipped(self):
        config = config_of("vit")
        config.num_hidden_layers = 2
        short = tiny_model(config)
        config = config_of("vit")
        config.num_hidden_layers = 4
        long = tiny_model(config, 5)
        state = {name: value for name, value in short.named_parameters()}
        for name, parameter in long.named_parameters():
            layer = next((i for i in range(4) if f".layers.{i}." in name), None)
            twin = name if layer is None else name.replace(f".layers.{layer}.", f".layers.{layer // 2}.")
            parameter.data.copy_(state[twin])
            if layer is not None and layer % 2 == 0 and ("o_proj" in name or "fc2" in name):
                parameter.data.zero_()  # adds nothing to the stream
        result = fuse_models(
            [("long", long)], 1.0, batches_of(short.config, 4, 24), FusionOptions(**TRANSPORT), depth=2
        )
        assert len(result.anatomy.layers) == 2
        assert relative_error(result.model, short, short.config) < 1e-4
        assert result.report["layers"]["long"]["vit.layers.0"] == ["vit.layers.0", "vit.layers.1"]

    @pytest.mark.slow
    def test_teachers_of_different_depth_make_one_student_of_either(self):
        config, deeper = config_of("bert"), config_of("bert")
        deeper.num_hidden_layers = 3
        teachers = [("two", tiny_model(config)), ("three", tiny_model(deeper))]
        inputs = batches_of(config, 1)[0]
        for depth, wanted in ((None, 3), (2, 2), (0.34, 1)):
            one, other = (fuse_models(teachers[::step], 0.5, batches_of(config), depth=depth) for step in (1, -1))
            assert len(one.anatomy.layers) == one.model.config.num_hidden_layers == wanted
            assert torch.isfinite(logits_of(one.model, inputs)).all()
            assert torch.equal(logits_of(one.model, inputs), logits_of(other.model, inputs))

    def test_deeper_teachers_are_measured_at_the_layers_of_a_shallow_anchor(self):
        config, deeper, narrow = config_of("vit"), config_of("vit"), config_of("vit")
        deeper.num_hidden_layers, config.num_hidden_layers, narrow.num_hidden_layers = 4, 3, 2
        teachers = [("four", tiny_model(deeper)), ("three", tiny_model(config))]
        result = fuse_models(teachers, 1.0, batches_of(config), anchor=("two", tiny_model(narrow)))
        assert result.model.config.num_hidden_layers == 2

    def test_a_depth_that_is_not_there_is_refused(self):
        for depth in (0, 3, 1.5):
            with pytest.raises(UserError, match=r"depth .* of 2 layers is not possible"):
                fuse_models(independent("vit", (1,)), 0.5, None, depth=depth)

    def test_monotone_alignment_is_the_best_of_all(self):
        torch.manual_seed(0)
        distance = torch.rand(4, 5, dtype=torch.float64)
        paths = [p for p in itertools.product(range(5), repeat=4) if list(p) == sorted(p) and p[-1] == 4]
        best = min(paths, key=lambda path: sum(float(distance[i, j]) for i, j in enumerate(path)))
        assert align_monotone(distance) == list(best)

    def test_cka_ignores_rotation_and_scale(self):
        torch.manual_seed(0)
        x = torch.randn(40, 6, dtype=torch.float64)
        rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
        assert linear_cka(x, 3 * x @ rotation) == pytest.approx(1.0)
        assert linear_cka(x, torch.randn(40, 6, dtype=torch.float64)) < 0.6


@pytest.mark.parametrize("family", family_params(("bert", "llama", "bart", "vit"), fast=("bert",)))
def test_batch_size_and_sample_order_do_not_change_the_student(family):
    """Beyond float error: held-out samples and those of pilots are taken by what is in them."""
    teachers, config = independent(family), config_of(family)
    batches = batches_of(config, 4, 8)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    shuffled = {name: value[order] for name, value in whole.items()}
    made = [fuse_models(teachers, 0.5, found) for found in (batches, [whole], [shuffled])]
    inputs = batches[0]
    wanted = logits_of(made[0].model, inputs)
    for other in made[1:]:
        assert torch.allclose(logits_of(other.model, inputs), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_different_heads_and_units_go_into_one_student():
    config, other = config_of("llama"), config_of("llama")
    other.num_attention_heads, other.num_key_value_heads, other.intermediate_size, other.hidden_size = 6, 3, 72, 40
    teachers = [("one", tiny_model(config, 1)), ("two", tiny_model(other, 2))]
    result = fuse_models(teachers, 0.5, batches_of(config))
    assert (result.model.config.hidden_size, result.model.config.num_key_value_heads) == (16, 2)


class TestUnlikeHeads:
    """Heads of another size are chosen whole; their channels keep what they can of QKᵀ."""

    @pytest.mark.parametrize("family", family_params(("bert", "vit", "gpt2"), fast=("vit",)))
    def test_teachers_with_other_head_sizes_make_one_student(self, family):
        fields = {"gpt2": ("n_head",)}.get(family, ("num_attention_heads",))
        other = config_of(family)
        for field in fields:
            setattr(other, field, 2)
        teachers = [("four", trained_model(family, 1)), ("two", train_briefly(other, 2, 120))]
        task = task_for(other)
        batches, unseen = ([without_labels(task.batch(first + i)) for i in range(6)] for first in (1, 101))
        target = [ensemble_predictions([model for _, model in teachers], [0.5, 0.5], batch) for batch in unseen]
        mean = FusionOptions(weights="equal", mixture="probabilities")
        for pair in (teachers, teachers[::-1]):
            result = fuse_models(pair, 0.5, batches, mean)
            far = fuse_models(pair, 0.5, batches, FusionOptions(residual="slice", inner="slice", refit=False))
            assert mean_kl(result.model, unseen, target) < mean_kl(far.model, unseen, target) / 3

    def test_padding_channels_to_larger_heads_keeps_the_function(self):
        """Four heads of 8 in a student of four heads of 16: the root of the number of channels is made up for."""
        narrow = tiny_model(config_of("bert"))
        space = next(s for s in inspect_config(narrow.config).spaces.values() if s.kind == "attention")
        wide = replace(space, head_dim=16, size=64)
        torch.manual_seed(0)
        moments = [torch.eye(32, dtype=torch.float64)] * 3
        statistics = HeadStatistics(torch.ones(32, 8, dtype=torch.float64), 8, *(lambda m=m: m for m in moments))
        (maps,) = unlike_maps([space], wide, statistics, torch.ones(32, dtype=torch.float64))
        query, key = (maps[f"{space.name}/{role}"].push for role in ("query", "key"))
        x, y = torch.randn(2, 5, 32, dtype=torch.float64)
        wanted = torch.einsum("thc,shc->hts", x.view(5, 4, 8), y.view(5, 4, 8)) / 8**0.5
        found = torch.einsum("thc,shc->hts", (x @ query).view(5, 4, 16), (y @ key).view(5, 4, 16)) / 16**0.5
        order = (maps[f"{space.name}/output"].push.abs().view(4, 8, 4, 16).sum((1, 3)) > 0).double().argmax(0)
        assert torch.allclose(found, wanted[order], atol=1e-10)

    def test_rotary_heads_of_another_size_are_refused_by_name(self):
        other = config_of("llama")
        other.head_dim = 16
        with pytest.raises(UnsupportedError, match="heads of 16 channels"):
            fuse_models([("one", tiny_model(config_of("llama"))), ("two", tiny_model(other))], 0.5, batches_of(other))


@pytest.mark.parametrize(
    "family",
    family_params(("vit", "gpt-neox", "t5", "albert", "mixtral", "whisper", "clip-text"), ("vit", "mixtral")),
)
def test_the_automatic_way_makes_a_finite_student_with_a_report(family):
    teachers = independent(family)
    result = fuse_models(teachers, 0.5, batches_of(config_of(family)))
    assert torch.isfinite(logits_of(result.model, batches_of(config_of(family), 1)[0])).all()
    assert result.report["fits"] and result.report["choice"]["candidates"]


def test_no_teachers_and_no_samples_are_refused():
    with pytest.raises(UserError, match="nothing to fuse"):
        fuse_models([], 0.5, None)
    with pytest.raises(UserError, match="empty"):
        fuse_models(independent("vit", (1,)), 0.5, [])


@pytest.mark.parametrize("family", ["vit", "bert", "llama", "gpt2", "t5", "bart", "whisper", "deberta-v2", "gpt-neo"])
def test_walking_layer_by_layer_gives_the_models_own_logits(family):
    model = tiny_model(config_of(family))
    stacks, batches = [stack.layers for stack in inspect_config(model.config).stacks], batches_of(model.config, 2, 4)
    runner = LayerwiseRunner(model, stacks, batches)
    for index, layers in enumerate(stacks):
        runner.start_stack(index)
        for layer in layers:
            runner.advance(layer)
    for index, batch in enumerate(batches):
        assert torch.allclose(runner.logits(index), logits_of(model, batch), atol=1e-10)
    assert not any("forward" in vars(module) for module in model.modules())


class TestRefit:
    """The closed form against what it must equal."""

    @staticmethod
    def sums(inputs, outputs, origin=None):
        found = Regression(inputs.shape[1], outputs.shape[1], origin)
        for start in range(0, len(inputs), 7):
            found.add(inputs[start : start + 7], outputs[start : start + 7])
        return found

    def test_streamed_sums_solve_the_ridge_regression(self):
        torch.manual_seed(0)
        x, w = torch.randn(50, 6, dtype=torch.float64) + 3, torch.randn(6, 4, dtype=torch.float64)
        y = x @ w + 1.5 + 0.1 * torch.randn(50, 4, dtype=torch.float64)
        found = fit_ridge(self.sums(x, y), None, None, intercept=True, ridges=(1e-2,))
        centred = x - x.mean(0)
        gram = centred.T @ centred
        expected = torch.linalg.solve(gram + 1e-2 * gram.diagonal().mean() * torch.eye(6), centred.T @ (y - y.mean(0)))
        assert torch.allclose(found.weight, expected, atol=1e-10)
        assert torch.allclose(found.bias, y.mean(0) - x.mean(0) @ expected, atol=1e-10)

    def test_the_origin_does_not_matter(self):
        torch.manual_seed(1)
        x, y = torch.randn(40, 5, dtype=torch.float64) + 9, torch.randn(40, 3, dtype=torch.float64) - 4
        plain = fit_ridge(self.sums(x, y), None, None, intercept=True)
        moved = fit_ridge(self.sums(x, y, (x[0], y[0])), None, None, intercept=True)
        assert torch.allclose(plain.weight, moved.weight, atol=1e-8)
        assert torch.allclose(plain.bias, moved.bias, atol=1e-8)

    def test_directions_without_evidence_keep_the_prior(self):
        x = torch.zeros(20, 3, dtype=torch.float64)
        x[:, 0] = torch.arange(20)
        prior = torch.ones(3, 2, dtype=torch.float64)
        found = fit_ridge(self.sums(x, 5 * x[:, :1].expand(-1, 2)), None, prior, intercept=False, ridges=(1e-8,))
        assert torch.allclose(found.weight[0], torch.full((2,), 5.0, dtype=torch.float64), atol=1e-6)
        assert found.prior is False or torch.allclose(found.weight[1:], prior[1:])

    def test_held_out_samples_choose_more_ridge_for_noise(self):
        torch.manual_seed(2)
        x, noise = torch.randn(24, 20, dtype=torch.float64), torch.randn(24, 2, dtype=torch.float64)
        found = fit_ridge(self.sums(x[:16], noise[:16]), self.sums(x[16:], noise[16:]), None, intercept=True)
        assert found.ridge == max((1e-10, 1e-1))


def test_zero_mean_basis_is_orthonormal_and_centred():
    basis = zero_mean_basis(7)
    assert torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64))
    assert basis.sum(0).abs().max() < 1e-12

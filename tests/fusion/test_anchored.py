"""The paper's way: everything aligned to an anchor along the flow graph."""

from __future__ import annotations

import copy

import pytest
import torch
from families import batches_of, config_of, family_params, tiny_model
from permuted import permuted

from compressor.anatomy import Role, inspect_config, map_key
from compressor.anatomy.certificate import random_permutations
from compressor.anatomy.hooks import logits_of
from compressor.anatomy.sites import flow_graph
from compressor.anatomy.transform import apply
from compressor.errors import UnsupportedError, UserError
from compressor.fusion import fuse_models
from compressor.fusion.anchored.policies import POLICIES, outgoing_coupling
from compressor.recipe import FusionOptions
from compressor.testing.widening import widen
from compressor.transport import identity_coupling, solve

#: Policies that give every place the same kind of map for a model of its own coordinates.
PERMUTABLE = [name for name in POLICIES.names() if name != "identity"]


def relative_error(model, reference, batch) -> float:
    wanted = logits_of(reference, batch)
    return float((logits_of(model, batch) - wanted).abs().max() / wanted.abs().max())


def options(residual: str, *, refit: bool = False, **alignment) -> FusionOptions:
    return FusionOptions(residual=residual, refit=refit, alignment=alignment)


@pytest.mark.parametrize("family", ["vit", "bert", "llama", "gpt-neox", "gemma2", "olmo2", "bart", "dinov2"])
@pytest.mark.parametrize("policy", ["averaging", "global"])
def test_a_model_fused_with_a_permuted_copy_of_itself_is_that_model(family, policy):
    model = tiny_model(config_of(family))
    batches = batches_of(model.config, 4, 24)
    try:
        fused = fuse_models([("one", model), ("two", permuted(model))], 1.0, batches, options(policy)).model
    except UnsupportedError as error:
        assert "one map throughout" in str(error)  # tied embeddings
        return
    assert relative_error(fused, model, batches[0]) < 1e-5


@pytest.mark.parametrize("policy", PERMUTABLE)
@pytest.mark.parametrize("features", ["activations", "weights"])
def test_every_policy_undoes_a_permutation(policy, features):
    if POLICIES.get(policy).weighs and features == "weights":
        pytest.skip("weighs by activations")
    model = tiny_model(config_of("vit"))
    batches = batches_of(model.config, 4, 24)
    pair = [("one", model), ("two", permuted(model))]
    fused = fuse_models(pair, 1.0, batches, options(policy, features=features)).model
    assert relative_error(fused, model, batches[0]) < 1e-5


@pytest.mark.parametrize("heads", ["within", "across"])
@pytest.mark.parametrize("query_key", ["joint", "equal"])
def test_heads_and_query_key_modes_undo_a_permutation(heads, query_key):
    model = tiny_model(config_of("bert"))
    batches = batches_of(model.config, 4, 24)
    pair = [("one", model), ("two", permuted(model))]
    fused = fuse_models(pair, 1.0, batches, options("averaging", heads=heads, query_key=query_key)).model
    assert relative_error(fused, model, batches[0]) < 1e-5


@pytest.mark.parametrize("preparation", ["raw", "centred", "standardised", "normalised"])
@pytest.mark.parametrize("cost", ["euclidean", "squared", "cosine", "correlation"])
def test_costs_and_preparations_undo_a_permutation(preparation, cost):
    model = tiny_model(config_of("vit"))
    batches = batches_of(model.config, 4, 24)
    pair = [("one", model), ("two", permuted(model))]
    fused = fuse_models(pair, 1.0, batches, options("global", preparation=preparation, cost=cost)).model
    assert relative_error(fused, model, batches[0]) < 1e-5


def test_logits_of_attention_cancel_only_if_queries_and_keys_share_a_map():
    """Imfeld et al., section 4.2: (Q T)(K T)ᵀ = Q Kᵀ for a permutation T, and not for two different ones."""
    model = tiny_model(config_of("vit"))
    anatomy = inspect_config(model.config)
    space = next(space for space in anatomy.spaces.values() if space.kind.value == "attention")
    found = random_permutations([space], torch.Generator().manual_seed(1))
    other = random_permutations([space], torch.Generator().manual_seed(2))
    key = map_key(space.name, Role.KEY)
    batch = batches_of(model.config, 1, 8)[0]
    state = {name: p.detach() for name, p in model.named_parameters()}
    errors = []
    for keys in (found[key], other[key]):
        twin = copy.deepcopy(model)
        moved = apply({**found, key: keys}, state, anatomy)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                parameter.copy_(moved[name])
        errors.append(relative_error(twin, model, batch))
    assert errors[0] < 1e-10 < 1e-4 < errors[1]


@pytest.mark.parametrize("policy", ["averaging", "weighted-scalar", "global"])
def test_wide_into_a_narrow_anchor_with_push_and_pull_recovers_it_and_with_one_matrix_does_not(policy):
    narrow = tiny_model(config_of("vit"))
    wide = widen(narrow)
    batches = batches_of(narrow.config, 4, 24)
    errors = {}
    for scaling in ("push-pull", "one-matrix"):
        chosen = options(policy, scaling=scaling)
        fused = fuse_models([("wide", wide)], 0.5, batches, chosen, anchor=("narrow", narrow)).model
        errors[scaling] = relative_error(fused, narrow, batches[0])
    assert errors["push-pull"] < 1e-4 < 1e-2 < errors["one-matrix"]


def test_narrow_into_wide_keeps_the_function():
    narrow = tiny_model(config_of("vit"))
    wide = widen(narrow)
    batches = batches_of(narrow.config, 4, 24)
    fused = fuse_models([("narrow", narrow)], 1.0, batches, options("global"), anchor=("wide", wide)).model
    assert fused.config.hidden_size == wide.config.hidden_size
    assert relative_error(fused, narrow, batches[0]) < 1e-4


def test_identity_is_vanilla_averaging_with_weights_that_reach_every_parameter():
    models = [tiny_model(config_of("vit"), seed) for seed in (1, 2, 3)]
    weights = (0.5, 0.3, 0.2)
    chosen = FusionOptions(residual="identity", refit=False, weights=weights)
    teachers = [(f"t{k}", model) for k, model in enumerate(models)]
    fused = dict(fuse_models(teachers, 1.0, None, chosen).model.named_parameters())
    for name, parameter in fused.items():
        wanted = sum(a * dict(model.named_parameters())[name] for a, model in zip(weights, models, strict=True))
        assert torch.allclose(parameter, wanted, atol=1e-12), name


def test_weights_of_aligned_teachers_reach_every_parameter():
    model, other = tiny_model(config_of("vit"), 1), tiny_model(config_of("vit"), 2)
    batches = batches_of(model.config, 4, 24)
    found = []
    for weights in ((1, 0), (0, 1), (0.25, 0.75)):
        chosen = FusionOptions(residual="averaging", refit=False, weights=weights)
        found.append(dict(fuse_models([("a", model), ("b", other)], 1.0, batches, chosen).model.named_parameters()))
    for name, parameter in found[2].items():
        assert torch.allclose(parameter, 0.25 * found[0][name] + 0.75 * found[1][name], atol=1e-9), name


@pytest.mark.parametrize("solver", ["sinkhorn", "partial", "unbalanced"])
@pytest.mark.parametrize("marginals", ["uniform", "activation", "outgoing"])
def test_soft_partial_and_unbalanced_transport_give_a_finite_model_and_report_their_couplings(solver, marginals):
    pair = [(f"t{seed}", tiny_model(config_of("vit"), seed)) for seed in (1, 2)]
    batches = batches_of(pair[0][1].config, 4, 16)
    result = fuse_models(pair, 1.0, batches, options("averaging", solver=solver, marginals=marginals))
    assert torch.isfinite(logits_of(result.model, batches[0])).all()
    assert any(coupling["solver"] == solver for coupling in result.report["couplings"])


def test_the_refit_of_an_aligned_student_is_nearer_to_the_ensemble():
    pair = [(f"t{seed}", tiny_model(config_of("vit"), seed)) for seed in (1, 2)]
    batches = batches_of(pair[0][1].config, 8, 24)
    wanted = torch.stack([logits_of(model, batches[0]) for _, model in pair]).mean(0)
    errors = [
        float(
            (
                logits_of(fuse_models(pair, 1.0, batches, options("averaging", refit=refit)).model, batches[0]) - wanted
            ).norm()
        )
        for refit in (False, True)
    ]
    assert errors[1] < errors[0]


def test_a_refit_chooses_the_share_of_the_anchor_on_held_out_samples():
    pair = [(f"t{seed}", tiny_model(config_of("vit"), seed)) for seed in (1, 2)]
    batches = batches_of(pair[0][1].config, 8, 24)
    result = fuse_models(pair, 1.0, batches, options("averaging", refit=True))
    choice = result.report["choice"]
    measured = {one["candidate"]: one["held_out_kl"] for one in choice["candidates"]}
    assert {f"t1 with a share of {share}" for share in (0.2, 0.5, 0.8)} <= measured.keys()
    taken = measured[f"t1 with a share of {choice['shares']['t1']:g}"]
    assert taken <= 1.01 * min(measured.values())
    assert sum(choice["shares"].values()) == pytest.approx(1) and choice["weights"] == {"t1": 0.5, "t2": 0.5}

    given = FusionOptions(residual="averaging", weights=tuple(choice["shares"].values()))
    again = fuse_models(pair, 1.0, batches, given)
    assert not again.report["choice"]["candidates"]
    assert relative_error(again.model, result.model, batches[0]) < 1e-10


def test_shares_are_alike_where_nothing_is_refitted_or_the_anchor_takes_no_part():
    pair = [(f"t{seed}", tiny_model(config_of("vit"), seed)) for seed in (1, 2)]
    batches = batches_of(pair[0][1].config, 8, 24)
    third = ("third", tiny_model(config_of("vit"), 3))
    for refit, anchor in ((False, None), (True, third)):
        choice = fuse_models(pair, 1.0, batches, options("averaging", refit=refit), anchor=anchor).report["choice"]
        assert choice["shares"] == {"t1": 0.5, "t2": 0.5} and not choice["candidates"]


@pytest.mark.parametrize("tokens", ["all", "class", "window:2", "random:0.5", "loss:100"])
def test_token_filters_undo_a_permutation(tokens):
    model = tiny_model(config_of("vit"))
    batches = batches_of(model.config, 6, 40)
    pair = [("one", model), ("two", permuted(model))]
    fused = fuse_models(pair, 1.0, batches, options("averaging", tokens=tokens)).model
    assert relative_error(fused, model, batches[0]) < 1e-5


@pytest.mark.parametrize(
    ("tokens", "said"),
    [("magic", "known"), ("window:99", "from 1 to"), ("random:2", "share"), ("loss:0", "leaves no sample")],
)
def test_bad_token_filters_are_refused(tokens, said):
    model = tiny_model(config_of("vit"))
    pair = [("one", model), ("two", permuted(model))]
    with pytest.raises(UserError, match=said):
        fuse_models(pair, 1.0, batches_of(model.config, 2, 4), options("averaging", tokens=tokens))


@pytest.mark.parametrize("policy", POLICIES.names())
def test_a_teacher_alone_stays_what_it_is(policy):
    model = tiny_model(config_of("vit"))
    batches = batches_of(model.config, 2, 8)
    fused = fuse_models([("one", model)], 1.0, batches, options(policy)).model
    assert relative_error(fused, model, batches[0]) < 1e-10


def test_correlation_is_refused_where_there_is_no_anchor():
    model = tiny_model(config_of("vit"))
    with pytest.raises(UserError, match="residual policy"):
        fuse_models([("one", model)], 0.5, batches_of(model.config, 2, 8), options("barycentre", cost="correlation"))


def test_an_unknown_residual_map_is_answered_with_maps_and_policies():
    with pytest.raises(UserError, match=r"magic.*barycentre.*weighted-matrix"):
        fuse_models([("one", tiny_model(config_of("vit")))], 1.0, None, options("magic"))


def test_a_policy_without_an_anchor_of_the_students_shape_is_refused():
    pair = [(f"t{seed}", tiny_model(config_of("vit"), seed)) for seed in (1, 2)]
    with pytest.raises(UserError, match="--anchor"):
        fuse_models(pair, 0.5, None, options("averaging"))


@pytest.mark.parametrize("family", family_params())
def test_every_residual_axis_has_a_site_and_every_site_an_axis(family):
    anatomy = inspect_config(config_of(family))
    try:
        graph = flow_graph(anatomy)
    except UnsupportedError as error:
        assert "--residual global" in str(error)
        return
    used = {part.key for axes in graph.anatomy.axes.values() for axis in axes for part in axis.parts}
    sites = {space.name for space in graph.anatomy.residuals}
    assert sites <= used
    assert {junction.after for junction in graph.junctions} | set(graph.entries) <= sites
    assert len(graph.junctions) >= len(anatomy.layers)


def test_policies_mix_couplings_as_the_paper_says():
    torch.manual_seed(0)
    stream, branch = identity_coupling(4), solve("sinkhorn", torch.rand(4, 4, dtype=torch.float64), epsilon=0.5)
    strengths = [torch.tensor([1.0, 1.0, 1.0, 1.0]).double(), torch.tensor([9.0, 9.0, 9.0, 9.0]).double()]
    plans = {
        name: outgoing_coupling(POLICIES.get(name), [stream, branch], strengths).plan for name in POLICIES.names()
    }  # fmt: skip
    assert torch.allclose(plans["averaging"], (stream.plan + branch.plan) / 2)
    assert torch.allclose(plans["weighted-scalar"], 0.25 * stream.plan + 0.75 * branch.plan)
    assert torch.allclose(plans["weighted-matrix"], plans["weighted-scalar"])
    assert torch.equal(plans["residual-only"], stream.plan)
    assert torch.allclose(plans["branch-only"], branch.plan)

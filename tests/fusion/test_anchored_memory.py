"""Anchored fusions hold one layer's maps at a time, and give what dense maps of the whole model would give."""

from __future__ import annotations

import gc

import pytest
import torch
from families import batches_of, config_of, tiny_model, widen

from compressor.anatomy import Map, apply, canonicalise, inspect_config
from compressor.anatomy.lazy_state import Derived
from compressor.anatomy.sites import FlowGraph, flow_graph
from compressor.fusion import POLICIES, fuse_models
from compressor.fusion.anchored import comparison
from compressor.fusion.anchored.aligned_student import AlignedStudent
from compressor.fusion.anchored.compact import CompactCoupling
from compressor.fusion.anchored.schedule import START, Schedule
from compressor.recipe import FusionOptions
from compressor.transport import from_selection, identity_coupling, solve
from compressor.utils.sparse import Entries, carry, scaled, sums

SOFT = {"solver": "sinkhorn", "epsilon": 0.05, "normalise": "max", "heads": "across", "preparation": "standardised"}
WAYS = {
    "averaging-hard": ("averaging", {}),
    "averaging-soft": ("averaging", SOFT),
    "averaging-weights": ("averaging", {"features": "weights"}),
    "weighted-soft": ("weighted-matrix", SOFT),
    "global-hard": ("global", {"preparation": "centred"}),
    "global-soft": ("global", SOFT),
    "identity": ("identity", {}),
}


def options(way: str, *, refit: bool = False, **more) -> FusionOptions:
    residual, alignment = WAYS[way]
    return FusionOptions(residual=residual, refit=refit, alignment={**alignment, **more}, weights=(0.4, 0.6))


def teachers(family: str, dtype=torch.float32):
    return [(f"t{seed}", tiny_model(config_of(family), seed).to(dtype)) for seed in (1, 2)]


def batches(family: str, dtype=torch.float32):
    found = batches_of(config_of(family), 3, 24)
    return [{name: v.to(dtype) if v.is_floating_point() else v for name, v in batch.items()} for batch in found]


@pytest.fixture
def couplings(monkeypatch):
    """The dense couplings of every place and teacher, in the order in which they are solved."""
    seen, of = [], CompactCoupling.of.__func__

    def record(cls, coupling):
        seen.append(coupling)
        return of(cls, coupling)

    monkeypatch.setattr(CompactCoupling, "of", classmethod(record))
    return seen


def dense_reference(pair, found, chosen):
    """Every plan, push and pull dense at once, every teacher's weights moved as a whole in float64."""
    policy, anatomy = POLICIES.get(chosen.residual), inspect_config(pair[0][1].config)
    graph = flow_graph(anatomy) if policy.local else FlowGraph(anatomy, (anatomy.residual.name,), ())
    made = Schedule(graph).made
    # Places come one after the other, in each all keys of the first teacher and then of the second.
    maps = [{}, {}]
    start = 0
    for place in sorted(set(made.values())):
        across = chosen.alignment.heads == "across"
        own = [key for key in made if made[key] == place and not (across and key.endswith("/heads"))]
        both = [found[start : start + len(own)], found[start + len(own) : start + 2 * len(own)]]
        start += 2 * len(own)
        for index, key in enumerate(own):
            mass = sum(a * one[index].plan.sum(0) for a, one in zip(chosen.weights, both, strict=True))
            for k, a in enumerate(chosen.weights):
                maps[k][key] = Map(a * (both[k][index].plan / mass), both[k][index].pull())
    assert start == len(found)
    moved = [
        apply(own, dict(model.named_parameters()), graph.anatomy) for own, (_, model) in zip(maps, pair, strict=True)
    ]
    written = {
        name: any(axis.side.value == "write" and not axis.fixed for axis in axes)
        for name, axes in graph.anatomy.axes.items()
    }
    return {
        name: sum((1 if written[name] else a) * one[name] for a, one in zip(chosen.weights, moved, strict=True))
        for name in moved[0]
    }


@pytest.mark.parametrize(("family", "way"), [*(("vit", way) for way in WAYS), ("bert", "averaging-soft")])
def test_the_weights_are_those_of_dense_maps(family, way, couplings):
    pair, chosen = teachers(family), options(way)
    model = fuse_models(pair, 1.0, batches(family), chosen).model
    reference = dense_reference(pair, couplings, chosen)
    for name, parameter in model.named_parameters():
        wanted = reference[name]
        assert parameter.dtype == torch.float32
        assert float((parameter - wanted).abs().max()) <= 1e-7 * float(wanted.abs().max().clamp(min=1e-6)), name


@pytest.mark.parametrize("way", ["averaging-hard", "weighted-soft"])
def test_the_report_has_the_figures_of_the_dense_couplings(way, couplings):
    result = fuse_models(teachers("vit"), 1.0, batches("vit"), options(way))
    said = [{key: value for key, value in one.items() if key != "teacher"} for one in result.report["couplings"]]
    known = [coupling.summary() for coupling in couplings]
    assert len(said) == len(known)
    assert all(one in known for one in said)


@pytest.mark.parametrize(("way", "refit"), [("averaging-hard", True), ("weighted-soft", False), ("global-hard", False)])
def test_moments_measured_place_by_place_change_nothing(way, refit, monkeypatch):
    found = []
    for room in (2**40, 0):
        monkeypatch.setattr(comparison, "MOMENT_BYTES", room)
        # A small anchor has room for itself: let it weigh nothing.
        monkeypatch.setattr(comparison, "_model_bytes", lambda model: 0)
        found.append(fuse_models(teachers("vit"), 1.0, batches("vit"), options(way, refit=refit)).model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(("family", "refit"), [("vit", False), ("vit", True), ("bart", True)])
def test_one_layers_maps_are_known_at_a_time(family, refit, monkeypatch):
    held = []
    forget = AlignedStudent.forget

    def watched(student, names):
        held.append({key for key in student.residual if key.startswith(tuple(student.anatomy.layers))})
        forget(student, names)

    monkeypatch.setattr(AlignedStudent, "forget", watched)
    residual = "averaging" if family == "vit" else "global"
    # Of given weights no pilots are built, which have layers of their own.
    chosen = FusionOptions(residual=residual, refit=refit, weights=(0.4, 0.6))
    anatomy = inspect_config(config_of(family))
    fuse_models(teachers(family, torch.float64), 1.0, batches(family, torch.float64), chosen)
    assert len(held) == len(anatomy.layers)
    for layer, keys in zip(anatomy.layers, held, strict=True):
        before = anatomy.layers[max(0, anatomy.layers.index(layer) - 1)]
        # Of the layer before, the stream that enters is left.
        assert sum(not key.startswith(layer + ".") for key in keys) <= 1
        assert all(key.startswith((layer + ".", before + ".")) for key in keys)


def bytes_in_double_precision() -> int:
    alive = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.dtype == torch.float64]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in alive}.values())


@pytest.mark.parametrize("way", ["averaging-soft", "global-hard"])
def test_there_is_never_a_copy_of_a_whole_model_in_double_precision(way, monkeypatch):
    """Old: two teachers' states, and every plan, push and pull: at least 24 bytes a parameter of a teacher."""
    config = config_of("vit")
    config.num_hidden_layers = 6
    pair = [(f"t{seed}", tiny_model(config, seed).float()) for seed in (1, 2)]
    monkeypatch.setattr(comparison, "MOMENT_BYTES", 0)
    monkeypatch.setattr(comparison, "_model_bytes", lambda model: 0)
    most, transport = [0], AlignedStudent.transport

    def watched(student, names):
        transport(student, names)
        if any(".3." in name for name in names):  # a layer in the middle; to look through all objects takes its time
            most[0] = bytes_in_double_precision()

    monkeypatch.setattr(AlignedStudent, "transport", watched)
    before = bytes_in_double_precision()
    fuse_models(pair, 1.0, batches("vit"), options(way))
    assert 0 < most[0] - before < 8 * pair[0][1].num_parameters() / 2


def test_every_map_is_made_before_it_is_asked_for_and_at_one_place():
    graph = flow_graph(inspect_config(config_of("bart")))
    schedule = Schedule(graph)
    assert all(schedule.made.get(entry) == START for entry in graph.entries)
    assert all(schedule.made[key] <= place for key, place in schedule.needed.items() if key in schedule.made)
    used = {part.key for axes in graph.anatomy.axes.values() for axis in axes for part in axis.parts if part.key}
    assert used <= set(schedule.made)


@pytest.mark.parametrize(
    "matrix",
    [
        identity_coupling(7).plan,
        from_selection(torch.tensor([4, 0, 2]), 6).plan,
        solve("emd", torch.rand(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).plan,
    ],
    ids=["identity", "selection", "split"],
)
def test_entries_are_the_matrix(matrix):
    entries, values = Entries.of(matrix), torch.randn(matrix.shape[0], 4, dtype=torch.float64)
    assert entries is not None
    assert torch.equal(entries.dense(), matrix)
    assert all(torch.equal(sums(entries, dim), matrix.sum(dim)) for dim in (0, 1))
    assert torch.equal(carry(entries, values), matrix.T @ values)
    assert torch.equal(carry(entries, values[:, 0]), matrix.T @ values[:, 0])
    assert torch.equal(entries.move(values.T), values.T @ matrix)
    rows, columns = torch.rand(matrix.shape[0]).double(), torch.rand(matrix.shape[1]).double()
    wanted = 0.3 * (matrix * rows[:, None] * columns)
    for found in (entries, matrix):
        assert torch.equal(scaled(found, rows=rows, columns=columns, by=(0.3,)).dense(), wanted)


def test_a_soft_plan_has_too_many_entries():
    assert Entries.of(torch.rand(6, 6).double()) is None


@pytest.mark.parametrize("family", ["vit", "llama", "dinov2"])
def test_the_canonical_form_is_made_parameter_by_parameter(family):
    model = tiny_model(config_of(family)).float()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    state = canonicalise(dict(model.named_parameters()), inspect_config(model.config))
    assert set(state) == set(before)
    for name, value in state.items():
        assert value.dtype == torch.float64 and value.shape == state.shapes[name]
        assert torch.equal(value, state[name])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_what_is_derived_keeps_what_it_was_made_from():
    state = Derived({"a": torch.ones(2), "b": torch.ones(2)})
    before = state.maker("a")
    state.change("a", lambda value: 2 * value)
    further = Derived(state)
    further.change("a", lambda value: value + 1)
    assert [float(one[0]) for one in (before(), state["a"], further["a"], further["b"])] == [1, 2, 3, 1]
    assert "c" not in further and len(further) == 2


def test_a_wide_teacher_and_a_narrow_anchor_are_aligned_alike(couplings):
    """Plans between unlike sizes split mass; a hard one has fewer entries than a dense map all the same."""
    narrow = tiny_model(config_of("vit"))
    fuse_models(
        [("wide", widen(narrow))], 0.5, batches("vit", torch.float64), FusionOptions(residual="global", refit=False),
        anchor=("narrow", narrow),
    )  # fmt: skip
    assert couplings and all(Entries.of(coupling.plan) is not None for coupling in couplings)

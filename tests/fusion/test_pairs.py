"""`transport-select`: what teachers have in common becomes one, the rest competes for what is left."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import save_vit

import compressor
from compressor.fusion import fuse_models
from compressor.fusion.features.base import SpaceStatistics
from compressor.fusion.joint import relatives as judged
from compressor.fusion.joint.relatives import are_relatives
from compressor.fusion.maps.pairs import pair_coordinates, pair_units
from compressor.fusion.maps.residual import ResidualProblem
from compressor.fusion.maps.units import UnitProblem
from compressor.fusion.teacher import prepare_teachers
from compressor.models.load import load_teacher
from compressor.recipe import FusionOptions
from compressor.transport import paired


def signals(count, seed):
    return torch.randn(400, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gram_of(*parts):
    joint = torch.cat(parts, 1)
    return joint.T @ joint / len(joint)


def test_partial_pairs_of_unlike_sizes():
    """Teachers of 5 and 3 coordinates share two, noisy and scaled; the others stay alone."""
    first, other = signals(5, 0), signals(3, 1)
    other[:, 0], other[:, 2] = first[:, 3] + 0.1 * other[:, 0], 0.9 * first[:, 1]
    assert paired(gram_of(first, other), [5, 3], 0.2).tolist() == [0, 1, 2, 3, 4, 3, 5, 1]


def test_three_teachers_share_one_group():
    first = signals(3, 0)
    groups = paired(gram_of(first, first[:, [2, 0]], first[:, [1, 2, 0]]), [3, 2, 3], 0.2)
    assert groups.tolist() == [0, 1, 2, 2, 0, 1, 2, 0]


def test_opposite_and_silent_coordinates_are_no_pairs():
    first = signals(2, 0)
    silent = torch.zeros(400, 1, dtype=torch.float64)
    assert paired(gram_of(first, -first, silent), [2, 3], 0.2).tolist() == [0, 1, 2, 3, 4]


def problem_of(first, second, units):
    """Units that write each a direction of their own."""
    joint = torch.cat([first, second], 1)
    gram = joint.T @ joint / len(joint)
    outgoing = torch.eye(len(gram), dtype=torch.float64)
    statistics = SpaceStatistics(outgoing, lambda: gram.diagonal(), lambda: gram, lambda: gram @ outgoing)
    return UnitProblem("units", statistics, [first.shape[1], second.shape[1]], [0.5, 0.5], units)


def test_pairs_become_one_and_the_rest_competes():
    first, second = signals(3, 0), signals(3, 1)
    second[:, 1] = first[:, 2]
    # Alone, only the strongest of the others has a place.
    second[:, 2] *= 3
    solved = pair_units(problem_of(first, second, 2))
    plans = [coupling.plan for coupling in solved.couplings]
    assert [plan.nonzero().tolist() for plan in plans] == [[[2, 0]], [[1, 0], [2, 1]]]
    pushes = torch.cat([mapping.push for mapping in solved.maps])
    pulls = torch.cat([mapping.pull for mapping in solved.maps])
    torch.testing.assert_close(pushes.sum(0), torch.ones(2, dtype=torch.float64))
    assert pushes[2, 0] == pushes[4, 0] == 0.5 and pulls[2, 0] == pulls[4, 0] == pulls[5, 1] == 1


def test_pairs_leave_no_room_unused():
    first = signals(3, 0)
    solved = pair_units(problem_of(first, first.clone(), 5))
    assert sum(coupling.plan.count_nonzero() for coupling in solved.couplings) == 5
    assert bool((torch.cat([mapping.push for mapping in solved.maps]).sum(0) == 1).all())


def test_stream_directions_are_paired_too():
    first = signals(4, 0)
    problem = ResidualProblem(gram_of(first, first[:, [2, 0, 3, 1]]), [4, 4], [0.5, 0.5], 4, False, False)
    own, other = (coupling.plan for coupling in pair_coordinates(problem).couplings)
    assert torch.equal(4 * own, torch.eye(4, dtype=torch.float64))
    assert torch.equal(4 * other, torch.eye(4, dtype=torch.float64)[[2, 0, 3, 1]])


@pytest.fixture(scope="module")
def relatives(tmp_path_factory):
    """An ancestor and two perturbed copies of it."""
    ancestor = load_teacher(str(save_vit(tmp_path_factory.mktemp("ancestor"), seed=5, initializer_range=0.3))).model
    models = [ancestor]
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        child = copy.deepcopy(ancestor)
        with torch.no_grad():
            for value in child.parameters():
                value += 0.005 * value.abs().mean() * torch.randn(value.shape, generator=generator)
        models.append(child)
    return models


def test_relatives_are_coupled_by_the_identity(relatives):
    """Every space of fine-tunes of one ancestor: each coordinate to its own, of all teachers."""
    batches = [{"pixel_values": torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))}]
    result = compressor.fuse(relatives, 1.0, batches, residual="transport-select", inner="transport-select",
                             narrowing="fewer-heads", weights=[1, 1, 1], polish=0)  # fmt: skip
    couplings = result.report.couplings
    assert len(couplings) == 3 * (1 + 2 * 2)
    for coupling in couplings:
        assert coupling["solver"] == "transport-select" and coupling["untransported"] == coupling["empty_targets"] == 0
        assert coupling["paired"] == coupling["target"] == coupling["source"]
    for passage in result.passages:
        for push in passage.pushes:
            # Writers are centred first.
            expected = (torch.eye(len(push), dtype=push.dtype) - 1 / len(push)) / 3
            torch.testing.assert_close(push, expected, atol=1e-6, rtol=0)


def test_the_report_says_what_was_shared(relatives):
    batches = [{"pixel_values": torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))}]
    result = compressor.fuse(relatives[:2], 0.5, batches, inner="transport-select", narrowing="fewer-heads",
                            weights=[1, 1], polish=0)  # fmt: skip
    units = [coupling for coupling in result.report.couplings if coupling["source"] == 64]
    assert units and all(coupling["paired"] == coupling["target"] == 32 for coupling in units)
    assert all(coupling["untransported"] == 32 for coupling in units)


def halves(count=8):
    generator = torch.Generator().manual_seed(1)
    return [{"pixel_values": torch.randn(8, 3, 16, 16, generator=generator)} for _ in range(count)]


def test_relatives_are_told_by_their_weights(relatives):
    def prepared(models, weights=(0.5, 0.5)):
        named = [(str(k), model) for k, model in enumerate(models)]
        return prepare_teachers(named, weights, None, canonical=True).teachers

    stranger = copy.deepcopy(relatives[0])
    with torch.no_grad():
        for value in stranger.parameters():
            value.copy_(value.flatten()[torch.randperm(value.numel())].view_as(value))
    assert are_relatives(prepared(relatives[:2])) and not are_relatives(prepared([relatives[0], stranger]))
    assert not are_relatives(prepared(relatives[:2], (1.0, 0.0)))


def test_pairs_of_relatives_are_judged_by_finished_students(relatives, monkeypatch):
    """Both are built and the nearer one is returned; strangers' students, and those of named maps, are built once."""
    models, batches, train = [(str(k), model) for k, model in enumerate(relatives[:2])], halves(), 56
    options = {"residual": "principal", "weights": (1, 1), "polish": 0, "narrowing": "fewer-heads"}

    def finished(**more):
        choice = fuse_models(models, 0.5, batches, FusionOptions(**options, **more)).report["choice"]
        scores = {
            e["candidate"].rsplit(", ", 1)[1]: e["held_out_kl"] for e in choice["candidates"] if e["samples"] == train
        }
        return choice, scores

    choice, scores = finished()
    assert scores.keys() == {"select", "transport-select"}
    nearer = min(scores, key=scores.__getitem__)
    assert choice["inner"] == nearer and choice["residual"].endswith(nearer) and "finished" in choice["why"]
    assert not finished(inner="select")[1]
    monkeypatch.setattr(judged, "RELATED_COSINE", 1.1)
    choice, scores = finished()
    assert not scores and choice["inner"] == "select" and "finished" not in choice["why"]

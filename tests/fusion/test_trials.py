"""Pilots share the teachers' walk, and only near ties get more samples."""

from __future__ import annotations

import pytest
from families import batches_of, config_of, tiny_model

from compressor.fusion import fuse_models
from compressor.fusion.build import build_student, layerwise_build
from compressor.fusion.calibration import sizes
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.joint import trials
from compressor.fusion.maps import residual_statistics
from compressor.recipe import FusionOptions


def count(batch):
    return len(next(iter(batch.values())))


def independent(family, seeds=(0, 1)):
    return [(f"teacher {seed}", tiny_model(config_of(family), seed)) for seed in seeds]


@pytest.fixture
def walks(monkeypatch):
    """Students and samples of each layer-wise build."""
    seen = []
    build = layerwise_build.build_layerwise

    def watched(students, teachers, calibration, *more, **options):
        seen.append((len(students), sum(map(count, calibration.all))))
        build(students, teachers, calibration, *more, **options)

    monkeypatch.setattr(trials, "build_layerwise", watched)
    return seen


def test_all_shapes_and_maps_of_a_round_share_one_walk(walks):
    report = fuse_models(independent("vit"), 0.5, batches_of(config_of("vit"), 4, 24)).report["choice"]
    shapes = {entry["candidate"].split(",")[0] for entry in report["shapes"]}
    assert len(shapes) > 1 and walks[0][0] > len(report["candidates"])
    assert sum(count for count, _ in walks) >= len(report["shapes"])
    assert all(entry["seconds"] > 0 and entry["samples"] in {count for _, count in walks} for entry in report["shapes"])


def test_what_is_far_behind_gets_no_more_samples(walks, monkeypatch):
    for factor in ("SURVIVING_FACTOR", "RIVAL_FACTOR"):
        monkeypatch.setattr(trials, factor, 1.0)
    teachers, batches = independent("vit"), batches_of(config_of("vit"), 4, 24)
    fuse_models(teachers, 0.5, batches, FusionOptions(polish=0))
    assert len({samples for _, samples in walks}) == 1
    walks.clear()
    monkeypatch.setattr(trials, "SURVIVING_FACTOR", 1e9)
    report = fuse_models(teachers, 0.5, batches, FusionOptions(polish=0)).report["choice"]
    assert walks[-1][0] >= trials.MOST_SURVIVORS and walks[-1][1] > walks[0][1]
    assert sorted(entry["samples"] for entry in report["shapes"])[-1] == walks[-1][1]


def test_streams_and_reads_take_one_pass_of_each_teacher(monkeypatch):
    calls = []
    capture = residual_statistics._capture
    monkeypatch.setattr(
        residual_statistics,
        "_capture",
        lambda teacher, taps, batch: calls.append(taps) or capture(teacher, taps, batch),
    )
    teachers, batches = independent("llama"), batches_of(config_of("llama"), 2, 8)
    fuse_models(teachers, 0.5, batches, FusionOptions(residual="readers", narrowing="fewer-heads", polish=0))
    assert len(calls) == len(teachers) * len(CalibrationSet.split(batches, 0.125).all)


def test_samples_of_tokens_stay_within_bounds():
    assert [sizes.samples_of_tokens(4096, per, 16, 64) for per in (1, 100, 4096)] == [64, 41, 16]


def test_a_refit_takes_no_more_samples_than_it_needs(monkeypatch):
    taken = []
    build = layerwise_build.build_layerwise

    def watched(students, teachers, calibration, *more, **options):
        taken.append(tuple(sum(map(count, part)) for part in (calibration.train, calibration.held_out)))
        build(students, teachers, calibration, *more, **options)

    monkeypatch.setattr(build_student, "build_layerwise", watched)
    options = FusionOptions(residual="principal", narrowing="fewer-heads", polish=0)
    batches = batches_of(config_of("llama"), 4, 24)
    fuse_models(independent("llama", (0,)), 0.5, batches, options)
    monkeypatch.setattr(sizes, "REFIT_TOKENS", 64)
    monkeypatch.setattr(sizes, "TOKENS_PER_FITTED_INPUT", 1)
    fuse_models(independent("llama", (0,)), 0.5, batches, options)
    (all_train, all_held), (train, held) = taken
    assert all_train + all_held == sum(map(count, batches))
    assert 0 < train < all_train and 0 < held < all_held
    assert train / held == pytest.approx(all_train / all_held, rel=0.5)


def test_effort_decides_what_is_built(walks):
    teachers, batches = independent("vit"), batches_of(config_of("vit"), 4, 24)
    first = {}
    for effort in ("fast", "normal", "thorough"):
        walks.clear()
        options = FusionOptions(effort=effort)
        report = fuse_models(teachers, 0.5, batches, options).report
        first[effort] = walks[0][1]
        assert effort != "fast" or (report["polished"] is None and len({samples for _, samples in walks}) == 1)
    assert first["fast"] == first["normal"] < first["thorough"]

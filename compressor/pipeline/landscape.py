"""Scores in weight space: over a plane, and along lines."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from compressor.bench import weight_space as space
from compressor.bench.accuracy import Score
from compressor.bench.metrics import METRICS
from compressor.data.batches import Batches
from compressor.errors import UserError
from compressor.models.teacher import Teacher
from compressor.pipeline.environment import environment
from compressor.pipeline.evaluate import open_evaluated_models
from compressor.pipeline.output.apart import recipe_inputs
from compressor.pipeline.output.claim import Remark, claimed
from compressor.pipeline.rehearsal import rehearse_picture
from compressor.pipeline.scores.evaluation import short_names
from compressor.pipeline.stages import OnStage, StageReporter
from compressor.recipe import Recipe
from compressor.report.landscape_figures import SUFFIXES, check_plots, draw_curves, draw_plane
from compressor.utils.devices import on_device
from compressor.utils.files import check_file, disk_full_as_user_error, whole_path
from compressor.utils.scratch import finish, keep, scratch
from compressor.utils.strict_json import json_text
from compressor.utils.threads import use_threads


def measure_landscape(
    recipe: Recipe,
    picture: str | Path,
    *,
    points: int = 15,
    margin: float = 0.3,
    force: bool = False,
    progress: OnStage | None = None,
    remark: Remark | None = None,
) -> dict[str, Any]:
    """Measure the plane through the recipe's three models; write a contour map and its numbers.

    Args:
        recipe: models (teachers: anchor, fused, vanilla) and evaluation data.
        picture: .svg or .png; numbers go into its .json.
        points: along each side.
        margin: see `compressor.bench.weight_space.grid_states`.
        remark: called with a line on a killed run's remains.

    Returns:
        JSON-ready, as in the file: metric; models {name, score, x, y, fingerprint}; xs; ys; scores, a row per y;
        best {score, x, y}; samples, labelled, data, task, notes, environment, seconds; both files.

    Raises:
        UserError: unusable names, data, device or file, or models that differ in shape or span no plane.
    """
    picture = _check_kind(picture)
    with _claimed(recipe, picture, force, remark):
        rehearse_picture(draw_plane, picture.suffix, short_names(recipe.teachers))
        stages = StageReporter(progress)
        return _write(_plane(recipe, points, margin, stages), picture, draw_plane, force, stages)


def _plane(recipe: Recipe, points: int, margin: float, stages: StageReporter) -> dict[str, Any]:
    """Scores over the plane."""
    survey = _open(recipe, stages)
    with stages("plane", "laying a plane through the models"):
        plane = space.plane_through(survey.models)
    xs, ys = space.grid_states(plane, points, margin)
    places = [*plane.coordinates, *((x, y) for y, x in product(ys, xs))]
    scores = survey.measure((plane.at(*place) for place in places), len(places), stages)
    values = [space.score_value(score, survey.metric) for score in scores]
    rows, rest = survey.rows(scores), values[len(plane.coordinates) :]
    for row, (x, y) in zip(rows, plane.coordinates, strict=True):
        row.update(x=x, y=y)
    return {
        **survey.facts(scores[0]),
        "kind": "landscape",
        "models": rows,
        "xs": xs,
        "ys": ys,
        "scores": [rest[start : start + points] for start in range(0, len(rest), points)],
        "best": _best(places, values, survey.metric),
    }


def measure_interpolation(
    recipe: Recipe,
    picture: str | Path,
    *,
    points: int = 11,
    force: bool = False,
    progress: OnStage | None = None,
    remark: Remark | None = None,
) -> dict[str, Any]:
    """Measure the lines from the recipe's first model to the others; write curves and numbers.

    Arguments as in `measure_landscape`; `points` lie along each line, ends included.

    Returns:
        As `measure_landscape`, but models without x and y; shares of the other model; curves {start, end, scores,
        barrier}.

    Raises:
        UserError: see `measure_landscape`.
    """
    picture = _check_kind(picture)
    with _claimed(recipe, picture, force, remark):
        rehearse_picture(draw_curves, picture.suffix, short_names(recipe.teachers))
        stages = StageReporter(progress)
        return _write(_lines(recipe, points, stages), picture, draw_curves, force, stages)


def _lines(recipe: Recipe, points: int, stages: StageReporter) -> dict[str, Any]:
    """Scores along the lines."""
    survey = _open(recipe, stages)
    space.check_shapes(survey.models)
    shares = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    start, *ends = [model.state_dict() for model in survey.models.values()]
    inside = (space.interpolated_states(start, end, shares[1:-1]) for end in ends)
    total = 1 + len(ends) + len(ends) * (points - 2)
    scores = survey.measure(chain([start], ends, *inside), total, stages)
    values = [space.score_value(score, survey.metric) for score in scores]
    first, *others = survey.models
    curves = []
    for index, name in enumerate(others):
        begin = 1 + len(ends) + index * (points - 2)
        curve = [values[0], *values[begin : begin + points - 2], values[1 + index]]
        barrier = space.loss_barrier(shares, curve, survey.metric)
        curves.append({"start": first, "end": name, "scores": curve, "barrier": barrier})
    return {
        **survey.facts(scores[0]),
        "kind": "interpolation",
        "models": survey.rows(scores),
        "shares": shares,
        "curves": curves,
    }


@dataclass(frozen=True)
class _Survey:
    """Models on the CPU, a scratch copy of the first, and samples."""

    loaded: list[Teacher]
    models: dict[str, PreTrainedModel]
    scratch: PreTrainedModel
    batches: Batches
    device: str
    seed: int

    @property
    def metric(self) -> str:
        return self.batches.task.metrics[0]

    def measure(self, states: Iterable[space.State], total: int, stages: StageReporter) -> list[Score]:
        """Score of each state; the first is a model's."""
        space.check_shapes(self.models)
        space.check_function(self.models, self.scratch, self.seed)
        scores: list[Score] = []
        stage = stages("measure", f"measuring {total} points")
        with on_device([self.scratch], self.device), stage as progress:
            for score in space.score_states(self.scratch, states, self.batches):
                if not score.labelled:
                    raise UserError(f"{self.batches.split.name} has no known labels to measure with")
                scores.append(score)
                progress(len(scores) / total, f"measuring point {min(len(scores) + 1, total)} of {total}")
        return scores

    def rows(self, scores: list[Score]) -> list[dict[str, Any]]:
        """One row per model, with its score."""
        return [
            {"name": name, "score": space.score_value(score, self.metric), "fingerprint": model.fingerprint}
            for name, model, score in zip(self.models, self.loaded, scores[: len(self.loaded)], strict=True)
        ]

    def facts(self, score: Score) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "task": self.batches.task.name,
            "data": self.batches.split.name,
            "samples": score.samples,
            "labelled": score.labelled,
            "notes": [*(note for model in self.loaded for note in model.notes), *self.batches.split.notes],
            "environment": environment(),
        }


def _open(recipe: Recipe, stages: StageReporter) -> _Survey:
    """Load models on the CPU and open their data."""
    loaded, batches = open_evaluated_models(recipe, "measuring", stages, device="cpu")
    models = {name: model.model for name, model in zip(short_names(recipe.teachers), loaded, strict=True)}
    scratch = copy.deepcopy(loaded[0].model)
    return _Survey(loaded, models, scratch, batches, recipe.device, recipe.seed)


def _best(places: list[tuple[float, float]], values: list[float | None], metric: str) -> dict[str, float] | None:
    """The best measured place, of the grid or a model's."""
    known = [(value, *place) for value, place in zip(values, places, strict=True) if value is not None]
    if not known:
        return None
    score, x, y = METRICS[metric].best(known, key=lambda item: item[0])
    return {"score": score, "x": x, "y": y}


def _files(picture: Path) -> tuple[Path, Path]:
    return picture.with_suffix(".json"), picture


def _check_kind(picture: str | Path) -> Path:
    """The absolute path; refuse an unsupported kind of picture."""
    picture = whole_path(picture)
    if picture.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output: a picture ends with {' or '.join(SUFFIXES)}, and {picture.name} does not")
    check_plots()
    return picture


@contextmanager
def _claimed(recipe: Recipe, picture: Path, force: bool, remark: Remark | None) -> Iterator[None]:
    """Hold both files, which must be missing or replaceable."""
    numbers, _ = _files(picture)
    # Lock the numbers: pictures of both kinds share them.
    with (
        claimed(numbers, recipe_inputs(recipe, role="model"), more=[picture], remark=remark),
        use_threads(recipe.threads),
    ):
        for path in (numbers, picture):
            check_file(path, force, parents=True)
        yield


def _write(
    scores: dict[str, Any],
    picture: Path,
    draw: Callable[[Mapping[str, Any], Path], None],
    force: bool,
    stages: StageReporter,
) -> dict[str, Any]:
    """Write numbers and picture to a scratch folder, then move both."""
    parent = picture.parent
    files = _files(picture)
    with stages("draw", "drawing"), disk_full_as_user_error(f"to {parent}"), ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(scratch(picture))
        except OSError as error:
            raise UserError(f"cannot write {picture}: {error}") from None
        draw(scores, folder / picture.name)
        scores |= {"seconds": stages.report()}
        # In the file by name, so that the two can be moved together.
        named = scores | {"numbers": files[0].name, "picture": files[1].name}
        numbers = json_text(named, indent=1) + "\n"
        (folder / files[0].name).write_text(numbers, encoding="utf-8")
        scores |= {"numbers": str(files[0]), "picture": str(files[1])}
        finish(folder)
        try:
            for path in files:
                check_file(path, force, parents=True)
            for path in files:
                os.replace(folder / path.name, path)
        except (UserError, OSError) as error:
            keep(folder)
            raise UserError(f"cannot move the finished result to {picture} ({error}): it is kept in {folder}") from None
    return scores

"""The result of a fusion."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressor.anatomy import Anatomy
from compressor.anatomy.queries import stream_keys
from compressor.ensemble.stacking import Mixture
from compressor.fusion.build.student import BuiltStudent, StudentBuilder
from compressor.fusion.shape.spec import StudentSpec
from compressor.fusion.teacher import TeacherGroup
from compressor.layer_maps import LayerMap


class FusionReport(dict[str, Any]):
    """The report of a fusion, teachers by name: every entry is an attribute too.

    Attributes:
        mixture: of the teachers' predictions (`compressor.ensemble.stacking.Mixture.report`).
        choice: map, attention, shares and weights, with the candidates and their measures.
        certificate: per teacher, the largest relative change of the logits by permuted spaces.
        canonical: whether norms were folded into their readers.
        layers: per teacher, its layers for each of the student's, where these are chosen.
        couplings: per space and teacher: solver, sizes, cost, entropy, error of the marginals.
        projections: per stream and teacher: maps that are no couplings.
        fits: per refitted module: relative error and ridge.
        polished: per reconstructed layer: error before and after; None if that is off.
        unpolished: why no layer was reconstructed.
        head: the head's fit: held-out KL before and after.
        last_layer: the last layer's and the head's fit to the ensemble's predictions: held-out KL before and after.
        projection: the linear map after a sentence model's pooling: dimension, held-out error, ridge; or None.
        seconds: by stage.
    """

    mixture: dict[str, Any]
    choice: dict[str, Any]
    certificate: dict[str, float]
    canonical: bool
    layers: dict[str, dict[str, list[str]]]
    couplings: list[dict[str, Any]]
    projections: list[dict[str, Any]]
    fits: list[dict[str, Any]]
    polished: list[dict[str, Any]] | None
    unpolished: str | None
    head: dict[str, Any] | None
    last_layer: dict[str, Any] | None
    projection: dict[str, Any] | None
    seconds: dict[str, float]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a fusion's report has no '{name}': it has {', '.join(self)}") from None

    def to_dict(self) -> dict[str, Any]:
        """A copy in plain values."""
        return copy.deepcopy(dict(self))


@dataclass(frozen=True, eq=False)
class FusionResult:
    """A student and how it was made.

    Attributes:
        model: in evaluation mode and the teachers' precision.
        passages: maps between residual streams, for hidden-state losses.
        notes: lines on generation settings in which the teachers differ.
    """

    model: PreTrainedModel
    target: StudentSpec
    anatomy: Anatomy
    report: FusionReport
    passages: tuple[LayerMap, ...] = ()
    notes: tuple[str, ...] = ()


def collect_result(
    built: BuiltStudent,
    model: PreTrainedModel,
    group: TeacherGroup,
    mixture: Mixture,
    seconds: dict[str, float],
    projection: dict[str, Any] | None = None,
) -> FusionResult:
    """The result of a fusion; model: in the teachers' precision; projection: see `FusionReport`."""
    candidate, report = built.candidate, _report(built, group, mixture, seconds)
    report["projection"] = projection
    return FusionResult(model, candidate.spec, candidate.anatomy, report, layer_maps_of(built.builder, group.order))


def layer_maps_of(student: StudentBuilder, order: Sequence[int]) -> tuple[LayerMap, ...]:
    """Map the teachers' residual streams to the student's after every layer.

    They apply to original teachers, so they centre where canonical form does.

    Args:
        order: fusion teacher i is the user's order[i].
    """
    places = _user_order(order)
    pushes: dict[str, tuple[Tensor | None, ...]] = {}
    layer_maps = []
    keys = stream_keys(student.anatomy)
    for index, stack in enumerate(student.anatomy.stacks):
        for layer in stack.layers:
            key = keys[layer]
            if key not in pushes:
                pushes[key] = tuple(_push(student, place, key, stack.residual) for place in places)
            if any(push is not None for push in pushes[key]):
                layers = tuple(student.teachers[place].local_name(layer) for place in places)
                layer_maps.append(LayerMap(layer, layers, pushes[key], decoder=index > 0))
    return tuple(layer_maps)


def _push(student: StudentBuilder, place: int, key: str, residual: str) -> Tensor | None:
    """A stream map, float32 [n_k, m]; None if zero."""
    mapping = student.maps[place].get(key)
    if mapping is None or not mapping.push.any():
        return None
    anatomy, push = student.teachers[place].anatomy, mapping.push
    if residual in anatomy.centred and anatomy.rotatable(residual):
        push = push - push.mean(dim=0)
    return push.to(torch.float32).contiguous()


def _report(built: BuiltStudent, group: TeacherGroup, mixture: Mixture, seconds: dict[str, float]) -> FusionReport:
    """The report, in the user's order."""
    places, builder, report = _user_order(group.order), built.builder, built.builder.report
    teachers = [group.teachers[place] for place in places]
    named = {key: {t.name: built.choice[key][t.name] for t in teachers} for key in ("shares", "weights")}

    def by_teacher(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        # Every space has one entry per teacher.
        starts = range(0, len(entries), len(places))
        return [
            {"teacher": teacher.name, **entries[start + place]}
            for start in starts
            for place, teacher in zip(places, teachers, strict=True)
        ]

    return FusionReport(
        mixture=mixture.report(),
        choice=built.choice | named,
        certificate={teacher.name: teacher.anatomy.error for teacher in teachers},
        canonical=builder.anatomy.canonical,
        layers={
            teacher.name: {layer: list(span.layers) for layer, span in teacher.spans.items()}
            for teacher in teachers
            if teacher.spans
        },
        couplings=by_teacher(report.couplings),
        projections=by_teacher(report.projections),
        fits=report.fits,
        polished=report.reconstructed if builder.options.reconstruction_steps else None,
        unpolished=report.not_reconstructed or None,
        head=report.head,
        last_layer=report.last_layer,
        seconds={**seconds, "total": sum(seconds.values())},
    )


def _user_order(order: Sequence[int]) -> list[int]:
    """Fusion indices of the user's teachers."""
    return sorted(range(len(order)), key=lambda i: order[i])

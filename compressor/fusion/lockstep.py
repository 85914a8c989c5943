"""Building students: teachers and students walk forward together, layer by layer.

In every layer the teachers run once; each student makes the maps of its spaces from what they show, takes their
transported weights, and is refitted module by module in the order of its forward pass.  Several students (candidates
that differ in their residual map) share one walk of the teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from compressor.fusion.activations import ActivationFeatures, Seen
from compressor.fusion.moments import Features
from compressor.fusion.outline import Outline
from compressor.fusion.sources import Source
from compressor.fusion.student import Student
from compressor.fusion.walk import Spot, Walker
from compressor.fusion.weights import WeightFeatures


def build_from_weights(students: Sequence[Student], sources: Sequence[Source]) -> None:
    """Transport without data: every coupling is solved on the weights alone, nothing is refitted."""
    for student in students:
        outline, features = Outline(student.anatomy), WeightFeatures(sources, student.residual.maps)
        for layer in outline.layers:
            student.map_spaces(outline.spaces(layer), features)
            student.transport(outline.parameters(layer))
        student.map_spaces(outline.outside_spaces, features)
        student.transport(outline.outside_parameters)


def build(
    students: Sequence[Student],
    sources: Sequence[Source],
    batches: Sequence[Mapping[str, Tensor]],
    progress: Callable[[float], None] | None = None,
) -> None:
    """Build students of one shape on calibration batches.

    Args:
        students: their models' weights are set.
        sources: the teachers.
        batches: calibration inputs; the last ones choose λ (`BuildOptions.held_out`).
        progress: told the share of the layers that are done.
    """
    outline = Outline(students[0].anatomy)
    teachers = [Walker(source.model, source.anatomy.layers, batches) for source in sources]
    walkers = _start(outline, students, sources, teachers, batches)
    for index, layer in enumerate(outline.layers):
        _build_layer(outline, layer, students, sources, teachers, walkers)
        if progress is not None:
            progress((index + 1) / len(outline.layers))
    _finish(outline, students, sources, teachers, walkers)


def _build_layer(
    outline: Outline,
    layer: str,
    students: Sequence[Student],
    sources: Sequence[Source],
    teachers: Sequence[Walker],
    walkers: Sequence[Walker],
) -> None:
    """One layer of all models; what the teachers showed is let go of on return, so that one layer's is kept at most."""
    whole, thin = outline.layer_spots(layer), outline.thin_spots(layer)
    seen = Seen(sources, teachers[0].tokens, teachers[0].count, [spot for spot in thin if spot not in whole])
    for k, walker in enumerate(teachers):
        walker.run(layer, list(dict.fromkeys([*whole, *thin])), partial(seen.record, k), advance=True)
    for student, walker in zip(students, walkers, strict=True):
        features = ActivationFeatures(seen, student.residual.maps)
        student.map_spaces(outline.spaces(layer), _compared_by(student, features))
        student.transport(outline.parameters(layer))
        if student.options.refit:
            ends = None
            for stage in outline.stages(layer):
                ends = student.refit(stage, features, partial(walker.run, layer))
            if ends is not None:
                walker.hidden = ends
            else:
                walker.run(layer, (), lambda *_: None, advance=True)


def _start(
    outline: Outline,
    students: Sequence[Student],
    sources: Sequence[Source],
    teachers: Sequence[Walker],
    batches: Sequence[Mapping[str, Tensor]],
) -> list[Walker]:
    """Set embeddings, which transport exactly, and bring every model to its first layer."""
    spots: list[Spot] = [(norm.module, "out") for norm in outline.head]
    seen = Seen(sources, teachers[0].tokens, 0)
    for k, teacher in enumerate(teachers):
        teacher.start(spots, partial(seen.record, k))
    walkers = []
    for student in students:
        wait = [p for p in outline.outside_parameters if outline.touches(p, outline.outside_spaces)]
        student.transport([p for p in outline.outside_parameters if p not in wait])
        walker = Walker(student.model, outline.layers, batches)
        if student.options.refit:
            for norm in outline.head:
                student.refit([norm], ActivationFeatures(seen, student.residual.maps), walker.start)
            walker.start()
        walkers.append(walker)
    return walkers


def _finish(
    outline: Outline,
    students: Sequence[Student],
    sources: Sequence[Source],
    teachers: Sequence[Walker],
    walkers: Sequence[Walker],
) -> None:
    """Map and fit what comes behind the layers: poolers, and the head on the teachers' mean logits."""
    spots = outline.tail_spots()
    seen = Seen(sources, teachers[0].tokens, 0)
    for k, teacher in enumerate(teachers):
        teacher.finish(spots, partial(seen.record, k))
    for student, walker in zip(students, walkers, strict=True):
        features = ActivationFeatures(seen, student.residual.maps)
        student.map_spaces(outline.outside_spaces, _compared_by(student, features))
        student.transport([p for p in outline.outside_parameters if outline.touches(p, outline.outside_spaces)])
        if student.options.refit:
            for item in outline.tail:
                student.refit([item], features, walker.finish)


def _compared_by(student: Student, features: ActivationFeatures) -> Features:
    """What a student's spaces are matched by."""
    return WeightFeatures(student.sources, student.residual.maps) if student.options.from_weights else features

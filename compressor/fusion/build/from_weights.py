"""Build students from the teachers' weights alone, without samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compressor.fusion.build.embedding_gain import set_embedding_gain
from compressor.fusion.build.finished_layers import FinishedLayers
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.features.weight_features import WeightFeatures
from compressor.fusion.teacher import FusionTeacher
from compressor.models.streamed import holding

#: Callback (fraction).
OnFraction = Callable[[float], None]


def build_from_weights(
    students: Sequence[StudentBuilder],
    teachers: Sequence[FusionTeacher],
    on_progress: OnFraction = lambda fraction: None,
    finished: FinishedLayers | None = None,
) -> None:
    """Map and transport by weights alone.

    Args:
        finished: layers of the only student, to go on from.
    """
    for student in students:
        plan = student.plan
        features = WeightFeatures(teachers, student.maps, student.anatomy)
        for done, (name, layer) in enumerate(plan.layer_plans.items()):
            on_progress(done / len(plan.layers))
            if finished is not None and name in finished:
                finished.restore(name)
                continue
            with holding(student.model, name):
                student.map_spaces(layer.spaces, features)
                student.transport(layer.parameters)
                if finished is not None:
                    finished.add(name)
            student.forget(layer.spaces)
        student.map_spaces(plan.outside_spaces, features)
        student.transport(plan.outside_parameters)
        set_embedding_gain(student)

"""Building students: teachers and students walk forward together, layer by layer.

In every layer the teachers run once; each student makes the maps of its spaces from what they show, takes their
transported weights, and is refitted module by module in the order of its forward pass.  Several students (candidates
that differ in their residual map) share one walk of the teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from compressor.anatomy import Stack
from compressor.fusion.build.embedding_gain import set_embedding_gain
from compressor.fusion.build.head import refit_head
from compressor.fusion.build.reconstruction import reconstruct_layer
from compressor.fusion.build.refit import StudentRefit
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.layerwise import LayerwiseRunner, Tap
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.features.activations import ActivationFeatures, TeacherActivations, input_tap
from compressor.fusion.features.base import Features
from compressor.fusion.features.weight_features import WeightFeatures
from compressor.fusion.plan import BuildPlan
from compressor.fusion.teacher import FusionTeacher


def build_from_weights(
    students: Sequence[StudentBuilder],
    sources: Sequence[FusionTeacher],
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Transport alone: couplings that are not given are solved on the weights, and nothing is refitted.

    Args:
        students: their models' weights are set.
        sources: the teachers.
        progress: told the share of the layers that are done.
    """
    for student in students:
        outline = BuildPlan(student.anatomy)
        features = WeightFeatures(sources, student.maps, student.anatomy)
        for done, layer in enumerate(outline.layers):
            progress(done / len(outline.layers))
            student.map_spaces(outline.spaces(layer), features)
            student.transport(outline.parameters(layer))
            student.forget(outline.spaces(layer))
        student.map_spaces(outline.outside_spaces, features)
        student.transport(outline.outside_parameters)
        set_embedding_gain(student)


def build(
    students: Sequence[StudentBuilder],
    sources: Sequence[FusionTeacher],
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
    _Lockstep(students, sources, batches, progress or (lambda share: None)).build()


class _Lockstep:
    def __init__(
        self,
        students: Sequence[StudentBuilder],
        sources: Sequence[FusionTeacher],
        batches: Sequence[Mapping[str, Tensor]],
        progress: Callable[[float], None],
    ) -> None:
        self.students, self.sources, self.progress = students, sources, progress
        self.anatomy = students[0].anatomy
        self.outline = BuildPlan(self.anatomy)
        self.masks = Masks(batches, self.anatomy)
        stacks = [stack.layers for stack in self.anatomy.stacks]
        self.teachers = [
            LayerwiseRunner(s.model, [stack.layers for stack in s.anatomy.stacks], batches, s.name) for s in sources
        ]
        self.walkers = [LayerwiseRunner(student.model, stacks, batches) for student in students]

    def build(self) -> None:
        self._embed()
        done, total = 0, len(self.anatomy.layers)
        for index, stack in enumerate(self.anatomy.stacks):
            self._enter(index)
            for layer in stack.layers:
                self._build_layer(layer, stack)
                done += 1
                self.progress(done / total)
        self._finish()

    def _embed(self) -> None:
        """Set embeddings, which transport exactly, and whatever else lies outside the layers."""
        for student in self.students:
            features = WeightFeatures(self.sources, student.maps, self.anatomy)
            student.map_spaces(self.outline.early_spaces, features)
            student.transport(self.outline.early_parameters)
            set_embedding_gain(student)

    def _enter(self, stack: int) -> None:
        """Bring every model to the first layer of a stack, fitting what lies before it."""
        stages, spots = self.outline.before(stack), self.outline.before_spots(stack)
        seen = TeacherActivations(self.sources, self.anatomy, self.masks, 0)
        for k, teacher in enumerate(self.teachers):
            teacher.enter(stack, spots, partial(seen.record, k))
        for student, walker in zip(self.students, self.walkers, strict=True):
            if stack > 0:
                student.transport(self.outline.between(stack))
            if not student.options.refit:
                continue
            features = ActivationFeatures(seen, student.maps)
            for stage in stages:
                StudentRefit(student).refit(stage, features, partial(walker.enter, stack))
            walker.enter(stack)

    def _build_layer(self, layer: str, stack: Stack) -> None:
        """One layer of all models; what the teachers showed is let go of on return, so that one layer's is kept."""
        whole, thin = self.outline.layer_spots(layer), self.outline.thin_spots(layer)
        linear = [spot for spot in self.outline.inner_spots(layer) if self._is_linear(spot)]
        whole = [input_tap(spot) if spot in linear else spot for spot in whole]
        masks = self.masks.unrolled(stack.runs)
        if stack.runs > 1:
            for teacher, source in zip(self.teachers, self.sources, strict=True):
                teacher.unroll(source.own(layer), stack.runs)
        count = masks.count(layer, self.teachers[0].hidden)
        seen = TeacherActivations(
            self.sources, self.anatomy, masks, count, [spot for spot in thin if spot not in whole], linear
        )
        entering: Tap = (layer, "in")
        for k in range(len(self.sources)):
            shared = [entering] if stack.runs > 1 else []
            self._show(k, layer, list(dict.fromkeys([*whole, *thin, *shared])), seen)
        for student, walker in zip(self.students, self.walkers, strict=True):
            features = ActivationFeatures(seen, student.maps)
            student.map_spaces(self.outline.spaces(layer), self._compared_by(student, features))
            student.transport(self.outline.parameters(layer))
            if student.options.refit:
                self._refit_layer(student, walker, layer, stack, features)
            student.forget(self.outline.spaces(layer))
        if stack.runs > 1:
            for teacher in self.teachers:
                teacher.hidden = teacher.hidden[stack.runs - 1 :: stack.runs]

    def _is_linear(self, spot: Tap) -> bool:
        """Whether what is seen there is a plain linear map of what its module reads, in every teacher."""
        return all(type(source.model.get_submodule(source.own(spot[0]))) is nn.Linear for source in self.sources)

    def _refit_layer(
        self, student: StudentBuilder, walker: LayerwiseRunner, layer: str, stack: Stack, features: ActivationFeatures
    ) -> None:
        start = list(walker.hidden)
        if stack.runs > 1:
            # A layer that runs several times is fitted to all its runs at once, each from what should enter it.
            walker.hidden = [
                features.transported(index, (layer, "in"), stack.residual).to(begun).reshape(begun.shape)
                if index % stack.runs
                else begun
                for index, begun in ((i, start[i // stack.runs]) for i in range(len(start) * stack.runs))
            ]
        ends = None
        run = partial(walker.run, layer)
        for stage in self.outline.stages(layer):
            ends = StudentRefit(student).refit(stage, features, run)
        closing = self.outline.closing(layer) if student.options.polish else []
        if closing and reconstruct_layer(student, layer, closing[0], features, walker):
            for stage in closing:
                ends = StudentRefit(student).refit(stage, features, run)
        if stack.runs > 1:
            walker.roll(layer, stack.runs, start)
        elif ends is not None and walker.plain:
            # The layer need not run again for its output: only this module's part of it has changed.
            walker.hidden = ends
        else:
            walker.run(layer, (), lambda *_: None, advance=True)

    def _show(self, teacher: int, layer: str, spots: Sequence[Tap], seen: TeacherActivations) -> None:
        """Run a teacher over the layers that stand for one of the student's, recorded in the student's names."""
        source, walker = self.sources[teacher], self.teachers[teacher]
        route = source.route(layer)
        own = {(source.own(module), end): (module, end) for module, end in spots}
        waiting = set() if route.run else set(self.outline.checkpoints(layer))

        def record(batch: int, shown: dict[Tap, Tensor]) -> None:
            values = {own[spot]: value for spot, value in shown.items()}
            # A teacher that waits for the others leaves its residual stream as it is.
            values |= {spot: walker.hidden[batch].reshape(values[spot].shape) for spot in waiting if spot in values}
            seen.record(teacher, batch, values)

        for passed in route.run[:-1]:
            walker.run(passed, (), lambda *_: None, advance=True)
        walker.run(route.shown, list(own), record, advance=bool(route.run), again=not route.run)

    def _finish(self) -> None:
        """Map and fit what comes behind the layers: poolers, and the head on the teachers' mean logits."""
        spots = self.outline.tail_spots()
        # What a head of many classes puts out is much more than what it reads.
        linear = [spot for spot in spots if spot[1] == "out" and self._is_linear(spot)]
        spots = list(dict.fromkeys(input_tap(spot) if spot in linear else spot for spot in spots))
        seen = TeacherActivations(self.sources, self.anatomy, self.masks, 0, linear=linear)
        for k, teacher in enumerate(self.teachers):
            teacher.finish(spots, partial(seen.record, k))
        late = self.outline.late_spaces
        for student, walker in zip(self.students, self.walkers, strict=True):
            features = ActivationFeatures(seen, student.maps)
            student.map_spaces(late, self._compared_by(student, features))
            student.transport(self.outline.late_parameters)
            if student.options.refit:
                for stage in self.outline.tail_stages():
                    StudentRefit(student).refit(stage, features, walker.finish)
                refit_head(student, walker, self.teachers, self.masks)

    def _compared_by(self, student: StudentBuilder, features: ActivationFeatures) -> Features:
        """What a student's spaces are matched by."""
        if student.options.from_weights:
            return WeightFeatures(student.sources, student.maps, self.anatomy)
        return features

"""Build students layer by layer, in step with the teachers; several share one run of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import nn

from compressor.anatomy import Stack
from compressor.anatomy.hooks import Tap
from compressor.fusion.build.embedding_gain import set_embedding_gain
from compressor.fusion.build.finished_layers import FinishedLayers
from compressor.fusion.build.from_weights import OnFraction
from compressor.fusion.build.head import refit_head
from compressor.fusion.build.last_layer import reconstruct_predictions
from compressor.fusion.build.reconstruction import reconstruct_layer
from compressor.fusion.build.refit import StudentRefit
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.build.tail import fit_tail
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.calibration.span import capture_span
from compressor.fusion.features.activations import ActivationFeatures, TeacherActivations, input_tap
from compressor.fusion.features.base import Features
from compressor.fusion.features.weight_features import WeightFeatures
from compressor.fusion.teacher import FusionTeacher
from compressor.models.streamed import OUTSIDE, holding
from compressor.utils.process_memory import return_freed_memory
from compressor.utils.tensor_store import StoredTensors, TensorStore


def build_layerwise(
    students: Sequence[StudentBuilder],
    teachers: Sequence[FusionTeacher],
    calibration: CalibrationSet,
    on_progress: OnFraction | None = None,
    *,
    store: TensorStore | None = None,
    finished: FinishedLayers | None = None,
    processes: Processes = ALONE,
) -> None:
    """Build students of one plan, perhaps of several sizes; held-out samples choose λ.

    Args:
        calibration: of all processes.
        store: keeps hidden states and activations; in memory if omitted.
        finished: layers of the only student, to go on from.
    """
    on_fraction = on_progress or (lambda fraction: None)
    _LayerwiseBuild(students, teachers, calibration, on_fraction, store or TensorStore(), finished, processes).build()


class _LayerwiseBuild:
    def __init__(
        self,
        students: Sequence[StudentBuilder],
        teachers: Sequence[FusionTeacher],
        calibration: CalibrationSet,
        on_progress: OnFraction,
        store: TensorStore,
        finished: FinishedLayers | None,
        processes: Processes,
    ) -> None:
        self.students, self.teachers, self.on_progress = students, teachers, on_progress
        self.store, self.finished, self.processes = store, finished, processes
        #: This process's samples.
        self.calibration = processes.part_of(calibration)
        batches = self.calibration.all
        # Students differ in sizes alone: names, stages and taps are the first one's.
        self.anatomy, self.plan = students[0].anatomy, students[0].plan
        self.masks = Masks(batches, self.anatomy)
        stacks = [stack.layers for stack in self.anatomy.stacks]
        self.teacher_runners = [
            LayerwiseRunner(t.model, [stack.layers for stack in t.anatomy.stacks], batches, t.name, store)
            for t in teachers
        ]
        self.student_runners = [LayerwiseRunner(student.model, stacks, batches, store=store) for student in students]
        self.refits = [StudentRefit(student, self.calibration, store, processes) for student in students]
        #: Inputs of the last layer, per student that is reconstructed.
        self.entering: dict[int, StoredTensors] = {}

    def build(self) -> None:
        self._embed()
        done, total = 0, len(self.anatomy.layers)
        for index, stack in enumerate(self.anatomy.stacks):
            self._start_stack(index)
            for layer in stack.layers:
                if self.finished is not None and layer in self.finished:
                    self._go_on_from(layer)
                else:
                    self._build_layer(layer, stack)
                done += 1
                self.on_progress(done / total)
        with self._holding(OUTSIDE):
            self._finish()

    @contextmanager
    def _holding(self, module: str) -> Iterator[None]:
        """Keep a module's block of all models in memory."""
        with ExitStack() as held:
            for teacher in self.teachers:
                held.enter_context(holding(teacher.model, teacher.local_name(module)))
            for student in self.students:
                held.enter_context(holding(student.model, module))
            yield

    def _go_on_from(self, layer: str) -> None:
        """Bring all models behind a finished layer."""
        assert self.finished is not None
        self.finished.restore(layer)
        for teacher, runner in zip(self.teachers, self.teacher_runners, strict=True):
            for passed in teacher.span(layer).layers:
                runner.advance(passed)
        runner = self.student_runners[0]
        if not self.students[0].options.refit:
            return
        if not runner.plain:
            runner.advance(layer)
        elif hidden := self.finished.hidden(layer):
            runner.advance_to(hidden)

    def _embed(self) -> None:
        """Set everything needed before the layers."""
        for student in self.students:
            features = WeightFeatures(self.teachers, student.maps, student.anatomy)
            student.map_spaces(self.plan.early_spaces, features)
            student.transport(self.plan.early_parameters)
            set_embedding_gain(student)

    def _start_stack(self, stack: int) -> None:
        """Bring all models to a stack."""
        stages, taps = self.plan.stages_before(stack), self.plan.taps_before(stack)
        activations = TeacherActivations(
            self.teachers, self.anatomy, self.masks, 0, store=self.store, processes=self.processes
        )
        for k, runner in enumerate(self.teacher_runners):
            runner.start_stack(stack, taps, partial(activations.record, k))
        for student, runner, refit in zip(self.students, self.student_runners, self.refits, strict=True):
            if stack > 0:
                student.transport(self.plan.between(stack))
            if not student.options.refit:
                continue
            features = ActivationFeatures(activations, student.maps)
            for stage in stages:
                refit.refit(stage, features, partial(runner.start_stack, stack))
            runner.start_stack(stack)
        if self.finished is not None:
            # What the passes over all layers before this one left.
            return_freed_memory()

    def _build_layer(self, layer: str, stack: Stack) -> None:
        """Build one layer of all students."""
        with self._holding(layer):
            self._build_held_layer(layer, stack)
            if self.finished is not None:
                runner = self.student_runners[0]
                self.finished.add(layer, runner.hidden if runner.plain else ())

    def _build_held_layer(self, layer: str, stack: Stack) -> None:
        plan = self.plan.layer_plans[layer]
        activations = self._record_layer(layer, stack)
        features = [ActivationFeatures(activations, student.maps) for student in self.students]
        for student, student_features in zip(self.students, features, strict=True):
            with student.timed():
                student.map_spaces(plan.spaces, self._features_of(student, student_features))
        activations.release()
        for student in self.students:
            with student.timed():
                student.transport(plan.parameters)
        for index, student in enumerate(self.students):
            if student.options.refit:
                with student.timed():
                    self._refit_layer(index, layer, stack, features[index])
            student.forget(plan.spaces)
        for student in self.students:
            # Shared among students, all of which have theirs.
            student.forget_solved(plan.spaces)
        if stack.runs > 1:
            for runner in self.teacher_runners:
                runner.keep_last_run(stack.runs)

    def _record_layer(self, layer: str, stack: Stack) -> TeacherActivations:
        """Run the teachers' corresponding layers."""
        plan = self.plan.layer_plans[layer]
        linear = [tap for tap in plan.inner_taps if self._is_linear(tap)]
        whole = [input_tap(tap) if tap in linear else tap for tap in plan.taps]
        masks = self.masks.unrolled(stack.runs)
        if stack.runs > 1:
            for runner, teacher in zip(self.teacher_runners, self.teachers, strict=True):
                runner.unroll(teacher.local_name(layer), stack.runs)
        count = round(self.processes.total(masks.count(layer, self.teacher_runners[0].hidden)))
        thin = [tap for tap in plan.thin_taps if tap not in whole]
        activations = TeacherActivations(
            self.teachers, self.anatomy, masks, count, thin, linear, self.store, self.processes
        )
        entering: list[Tap] = [(layer, "in")] if stack.runs > 1 else []
        taps = list(dict.fromkeys([*whole, *plan.thin_taps, *entering]))
        for k, (teacher, runner) in enumerate(zip(self.teachers, self.teacher_runners, strict=True)):
            capture_span(runner, teacher, layer, taps, set(plan.stream_taps), partial(activations.record, k))
        return activations

    def _is_linear(self, tap: Tap) -> bool:
        """Whether a tap is linear in every teacher."""
        return all(type(t.model.get_submodule(t.local_name(tap[0]))) is nn.Linear for t in self.teachers)

    def _refit_layer(self, index: int, layer: str, stack: Stack, features: ActivationFeatures) -> None:
        student, runner, refit = self.students[index], self.student_runners[index], self.refits[index]
        plan, start = self.plan.layer_plans[layer], runner.kept_hidden()
        if student.options.reconstruction_steps and layer == self.anatomy.stacks[-1].layers[-1]:
            self.entering[index] = start
        if stack.runs > 1:
            # A layer that runs several times is fitted to all runs, each from its transported input.
            runner.advance_to(
                features.transported(virtual, (layer, "in"), stack.residual).to(hidden).reshape(hidden.shape)
                if virtual % stack.runs
                else hidden
                for virtual, hidden in ((i, start[i // stack.runs]) for i in range(len(start) * stack.runs))
            )
        outputs = None
        run = partial(runner.capture, layer)
        for stage in plan.stages:
            outputs = refit.refit(stage, features, run)
        closing = plan.closing if student.options.reconstruction_steps else None
        if closing and reconstruct_layer(student, layer, closing[0], features, runner, self.calibration):
            for stage in closing[1]:
                outputs = refit.refit(stage, features, run)
        if stack.runs > 1:
            runner.run_repeatedly(layer, stack.runs, start)
        elif outputs is not None and runner.plain:
            # The layer need not run again: only the last stage's part of its output has changed.
            runner.advance_to(outputs)
        else:
            runner.advance(layer)

    def _finish(self) -> None:
        """Map and fit everything after the layers."""
        taps = self.plan.tail_taps
        # The output of a head of many classes is much larger than its input.
        linear = [tap for tap in taps if tap[1] == "out" and self._is_linear(tap)]
        taps = list(dict.fromkeys(input_tap(tap) if tap in linear else tap for tap in taps))
        activations = TeacherActivations(
            self.teachers, self.anatomy, self.masks, 0, linear=linear, store=self.store, processes=self.processes
        )
        for k, runner in enumerate(self.teacher_runners):
            runner.capture_tail(taps, partial(activations.record, k))
        for index, (student, runner, refit) in enumerate(
            zip(self.students, self.student_runners, self.refits, strict=True)
        ):
            features = ActivationFeatures(activations, student.maps)
            student.map_spaces(self.plan.late_spaces, self._features_of(student, features))
            student.transport(self.plan.late_parameters)
            if student.options.refit:
                for stage in self.plan.tail_stages:
                    refit.refit(stage, features, runner.capture_tail)
                refit_head(student, runner, self.teacher_runners, self.masks, self.calibration, self.processes)
                fit_tail(student, runner, self.teacher_runners, self.calibration)
                self._refit_last_layer(index, runner)

    def _refit_last_layer(self, index: int, runner: LayerwiseRunner) -> None:
        """Fit the last layer to predictions, if layers are reconstructed."""
        student, stack = self.students[index], self.anatomy.stacks[-1]
        if student.options.reconstruction_steps and stack.runs == 1:
            reconstruct_predictions(
                student, stack.layers[-1], self.entering[index], runner, self.teacher_runners, self.masks,
                self.calibration,
            )  # fmt: skip

    def _features_of(self, student: StudentBuilder, features: ActivationFeatures) -> Features:
        """Features to compare spaces by."""
        if student.options.from_weights:
            return WeightFeatures(student.teachers, student.maps, student.anatomy)
        return features

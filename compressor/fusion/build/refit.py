"""Refit linear modules, norms and tied head in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compressor.anatomy import LinearOp, Norm
from compressor.anatomy.hooks import Tap
from compressor.anatomy.queries import place_columns, write_axis
from compressor.fusion.build.ridge import RidgeFit, fit_ridge, fit_scales
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import CalibrationSet
from compressor.fusion.calibration.layerwise import OnBatch
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.calibration.statistics import Regression, token_rows
from compressor.fusion.features.activations import ActivationFeatures
from compressor.fusion.plan import FitStage, LinearStage, NormStage, ResidualWriteStage, TiedHeadStage
from compressor.fusion.teacher import FusionTeacher, as_input_output, as_matrix, reads_first
from compressor.utils.tensor_store import StoredTensor, StoredTensors, TensorStore

#: Runs the student up to some taps and passes the tensors on, batch by batch.
RunLayer = Callable[[Sequence[Tap], OnBatch], Any]


class StudentRefit:
    """Fits modules on the student's own inputs; held-out samples choose λ.

    Args:
        calibration: this process's samples.
    """

    def __init__(
        self,
        student: StudentBuilder,
        calibration: CalibrationSet,
        store: TensorStore | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.store, self.processes = store or TensorStore(), processes
        self.model, self.anatomy, self.teachers = student.model, student.anatomy, student.teachers
        self.parameters, self.options, self.fits = student.parameters, student.options, student.report.fits
        self.calibration = calibration

    def refit(self, stage: FitStage, features: ActivationFeatures, run: RunLayer) -> StoredTensors | None:
        """Fit the modules of a stage.

        Returns:
            The layer's new outputs if the stage writes them.
        """
        if isinstance(stage, ResidualWriteStage):
            return self._refit_writers(stage, features, run)
        if isinstance(stage, LinearStage):
            self._refit_linears(stage.ops, features, run)
        elif isinstance(stage, NormStage):
            self._refit_norm(stage, features, run)
        else:
            self._refit_before_tied_head(stage, features, run)
        return None

    def _refit_linears(self, ops: Sequence[LinearOp], features: ActivationFeatures, run: RunLayer) -> None:
        """Fit modules of one input to transported outputs."""
        first = ops[0]

        def pairs(index: int, captured: dict[Tap, Tensor]) -> tuple[Tensor, Tensor]:
            inputs = token_rows(captured[first.module, "in"], features.masks.of(index, first.module))
            return inputs, torch.cat([self._target(op, features, index) for op in ops], dim=1)

        fit = self._regress([(first.module, "in")], pairs, ops, features, run)
        widths = [self._input_output(op).shape[1] for op in ops]
        biases = fit.bias.split(widths) if fit.bias is not None else [None] * len(ops)
        for op, weight, bias in zip(ops, fit.weight.split(widths, dim=1), biases, strict=True):
            self._set(op, weight, bias)
            self._record(op, fit)

    def _refit_writers(
        self, stage: ResidualWriteStage, features: ActivationFeatures, run: RunLayer
    ) -> StoredTensors | None:
        """Fit writers to what the stream lacks."""
        ops, tap = stage.ops, stage.tap
        taps = [*((op.module, end) for op in ops for end in ("in", "out")), tap]
        gain, key = ops[0].gain, stage.stream_key
        layer_inputs: list[tuple[list[StoredTensor], StoredTensor]] = []

        def pairs(index: int, captured: dict[Tap, Tensor]) -> tuple[Tensor, Tensor]:
            mask = features.masks.of(index, tap[0])
            stream = captured[tap]
            # The target is the transported stream less the contributions of other modules.
            written = torch.stack([captured[op.module, "out"].reshape(stream.shape) for op in ops]).sum(0)
            rest = stream - gain * written
            target = (features.transported(index, tap, key) - token_rows(rest, mask)) / gain
            if ops[0].checkpoint_is_output:
                keep = self.store.put
                layer_inputs.append(([keep(captured[op.module, "in"]) for op in ops], keep(rest)))
            return torch.cat([token_rows(captured[op.module, "in"], mask) for op in ops], dim=1), target

        fit = self._regress(taps, pairs, ops, features, run, together=True)
        sizes = [self._input_output(op).shape[0] for op in ops]
        biased = [op for op in ops if self._bias(op) is not None]
        for op, weight in zip(ops, fit.weight.split(sizes), strict=True):
            bias = fit.bias if biased[:1] == [op] else None
            self._set(op, weight, torch.zeros_like(fit.bias) if bias is None and fit.bias is not None else bias)
            self._record(op, fit)
        if not layer_inputs:
            return None
        with torch.no_grad():
            return self.store.many(self._output(ops, gain, inputs, rest.get()) for inputs, rest in layer_inputs)

    def _output(self, ops: Sequence[LinearOp], gain: float, inputs: Sequence[StoredTensor], rest: Tensor) -> Tensor:
        """The stream with the writers' summed outputs."""
        parts = [self.model.get_submodule(op.module)(x.get()) for op, x in zip(ops, inputs, strict=True)]
        return rest + gain * torch.stack([part.reshape(rest.shape) for part in parts]).sum(0)

    def _regress(
        self,
        taps: Sequence[Tap],
        pairs: Callable[[int, dict[Tap, Tensor]], tuple[Tensor, Tensor]],
        ops: Sequence[LinearOp],
        features: ActivationFeatures,
        run: RunLayer,
        *,
        together: bool = False,
    ) -> RidgeFit:
        """Fit inputs [T, n] to targets [T, m].

        Args:
            together: inputs are side by side, not outputs.
        """
        intercept = any(self._bias(op) is not None for op in ops)
        sums: dict[bool, Regression] = {}

        def on_batch(index: int, captured: dict[Tap, Tensor]) -> None:
            inputs, target = pairs(index, captured)
            target = target.to(inputs)
            if not sums:
                origin = (inputs.mean(0).cpu(), target.mean(0).cpu()) if intercept else None
                self.processes.take_first(*(origin or ()))
                sums.update({held: Regression(inputs.shape[1], target.shape[1], origin) for held in (False, True)})
            sums[self.calibration.is_held_out(index, features.masks.runs)].add(inputs, target)

        run(taps, on_batch)
        for part in sums.values():
            part.add_up(self.processes)
        priors = [self._input_output(op) for op in ops]
        prior = priors[0] if len(priors) == 1 else torch.cat(priors, dim=0 if together else 1)
        return fit_ridge(sums[False], sums[True], prior, intercept=intercept, ridges=self.options.ridges)

    @torch.no_grad()
    def _refit_norm(self, stage: NormStage, features: ActivationFeatures, run: RunLayer) -> None:
        """Fit scale and shift per channel."""
        norm, tap = stage.norm, stage.tap
        weight, bias = self._reset_norm(norm)
        key = norm.joins or self.anatomy.axes[f"{norm.module}.weight"][0].parts[0].key
        sums = torch.zeros(5, weight.numel(), dtype=torch.float64)

        def on_batch(index: int, captured: dict[Tap, Tensor]) -> None:
            output = captured[norm.module, "out"]
            x = token_rows(output, features.masks.of(index, norm.module)).cpu().double()
            if tap is None:
                y = features.transported(index, (norm.module, "out"), key).cpu().double()
            else:
                rest = captured[tap] - norm.gain * output.reshape(captured[tap].shape)
                mask = features.masks.of(index, tap[0])
                y = (features.transported(index, tap, key) - token_rows(rest, mask)).cpu().double() / norm.gain
            sums.add_(torch.stack([x.sum(0), y.sum(0), (x * y).sum(0), (x * x).sum(0), torch.full_like(x[0], len(x))]))

        run([(norm.module, "out"), *([tap] if tap is not None else [])], on_batch)
        self.processes.add_up(sums)
        count = sums[4]
        x, y, xy, xx = sums[:4] / count
        if bias is None:
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        scale = (xy - x * y) / (xx - x**2).clamp(min=1e-12)
        weight.copy_(scale + norm.unit_scale - 1)
        if bias is not None:
            bias.copy_(y - scale * x)

    @torch.no_grad()
    def _refit_before_tied_head(self, stage: TiedHeadStage, features: ActivationFeatures, run: RunLayer) -> None:
        """Fit the norm to mean logits."""
        norm, head = stage.norm, stage.head
        table, head_bias = self.parameters[head.weight].detach().cpu().double(), self._bias(head)
        sums: list[Tensor] = []

        def on_batch(index: int, captured: dict[Tap, Tensor]) -> None:
            mask = features.masks.of(index, head.module)
            u = token_rows(captured[head.module, "in"], mask).cpu().double()
            y = features.transported(index, (head.module, "out"), None).cpu().double()
            if head_bias is not None:
                y = y - head_bias.cpu().double()
            y = y - y.mean(dim=1, keepdim=True)
            parts = [u.T @ u, u.sum(0), (u * (y @ table)).sum(0), (y @ table).sum(0), torch.tensor(float(len(u)))]
            sums[:] = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts

        run([(head.module, "in")], on_batch)
        self.processes.add_up(*sums)
        weight, bias = self.parameters[f"{norm.module}.weight"], self.parameters.get(f"{norm.module}.bias")
        scale, shift = fit_scales(*sums, table=table, shifts=bias is not None)
        weight.copy_(scale * (weight.cpu() + 1 - norm.unit_scale) + norm.unit_scale - 1)
        if bias is not None and shift is not None:
            bias.copy_(scale * bias.cpu() + shift)

    def _reset_norm(self, norm: Norm) -> tuple[Tensor, Tensor | None]:
        """A norm's weight and bias, reset."""
        weight, bias = self.parameters[f"{norm.module}.weight"], self.parameters.get(f"{norm.module}.bias")
        weight.fill_(norm.unit_scale)
        if bias is not None:
            bias.zero_()
        return weight, bias

    def _target(self, op: LinearOp, features: ActivationFeatures, batch: int) -> Tensor:
        """Transported outputs; mean logits for a head."""
        tap, axis = (op.module, "out"), write_axis(self.anatomy, op)
        if axis.fixed:
            return features.transported(batch, tap, None)
        if len(axis.parts) == 1:
            return features.transported(batch, tap, axis.parts[0].key)
        pieces = []
        for index, part in enumerate(axis.parts):
            columns = [
                place_columns(write_axis(teacher.anatomy, self._local_op(teacher, op)), index)
                for teacher in self.teachers
            ]
            pieces.append((place_columns(axis, index), features.part(batch, tap, columns, part.key)))
        first = pieces[0][1]
        whole = torch.empty(len(first), axis.size, dtype=first.dtype, device=first.device)
        for place, values in pieces:
            whole[:, place.to(first.device)] = values
        return whole

    @staticmethod
    def _local_op(teacher: FusionTeacher, op: LinearOp) -> LinearOp:
        return replace(op, weight=teacher.local_name(op.weight))

    @torch.no_grad()
    def _set(self, op: LinearOp, weight: Tensor, bias: Tensor | None) -> None:
        first = reads_first(self.anatomy, op)
        as_matrix(self.parameters[op.weight]).copy_(weight if first else weight.T)
        parameter = self._bias(op)
        if bias is not None and parameter is not None:
            parameter.copy_(bias)

    def _bias(self, op: LinearOp) -> Tensor | None:
        """The module's bias; one that is tied (that of BERT's decoder) has the name of its source in `parameters`."""
        bias: Tensor | None = getattr(self.model.get_submodule(op.module), "bias", None)
        return bias

    def _record(self, op: LinearOp, fit: RidgeFit) -> None:
        # A module that is fitted again after a reconstruction has one entry.
        self.fits[:] = [entry for entry in self.fits if entry["module"] != op.module]
        self.fits.append({"module": op.module, "error": fit.error, "ridge": fit.ridge, "prior": fit.prior})

    def _input_output(self, op: LinearOp) -> Tensor:
        """A module's weight [inputs, outputs], in its precision."""
        return as_input_output(self.parameters[op.weight].detach().cpu(), self.anatomy, op)

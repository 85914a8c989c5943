"""The refit of one student: its linear modules, norms and head, each in closed form from the student's own inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compressor.anatomy import LinearOp, Norm
from compressor.anatomy.queries import place_columns, stream_tap, write_axis
from compressor.fusion.build.ridge import RidgeFit, fit_ridge, fit_scales
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.layerwise import OnBatch, Tap
from compressor.fusion.calibration.statistics import Regression, token_rows
from compressor.fusion.features.activations import ActivationFeatures
from compressor.fusion.plan import FitStage
from compressor.fusion.teacher import FusionTeacher, reads_first

#: Runs the student up to the watched spots, batch by batch.
RunLayer = Callable[[Sequence[Tap], OnBatch], Any]


class StudentRefit:
    """Fits modules of a student whose weights have been transported.

    Args:
        student: its parameters are set, and what was fitted is noted with it.
    """

    def __init__(self, student: StudentBuilder) -> None:
        self.model, self.anatomy, self.sources = student.model, student.anatomy, student.sources
        self.parameters, self.options, self.fits = student.parameters, student.options, student.fits

    def refit(self, stage: FitStage, features: ActivationFeatures, run: RunLayer) -> list[Tensor] | None:
        """Fit the modules of a stage from the student's own inputs.

        Returns:
            Per batch, the layer's new output, where the stage writes it; else None.
        """
        first = stage[0]
        if isinstance(first, Norm):
            heads = [step for step in stage[1:] if isinstance(step, LinearOp)]
            if heads:
                self._refit_before_tied_head(first, heads[0], features, run)
            else:
                self._refit_norm(first, features, run)
            return None
        steps = [step for step in stage if isinstance(step, LinearOp)]
        if stream_tap(first) is not None:
            return self._refit_writers(steps, features, run)
        self._refit_linears(steps, features, run)
        return None

    def _refit_linears(self, steps: Sequence[LinearOp], features: ActivationFeatures, run: RunLayer) -> None:
        """Linear maps that read the same input: fitted to what the teachers' own put out, transported."""
        first = steps[0]

        def pairs(index: int, seen: dict[Tap, Tensor]) -> tuple[Tensor, Tensor]:
            inputs = token_rows(seen[first.module, "in"], features.masks.of(index, first.module))
            return inputs, torch.cat([self._target(step, features, index) for step in steps], dim=1)

        self._fit_side_by_side(steps, self._regress([(first.module, "in")], pairs, steps, features, run))

    def _refit_writers(
        self, steps: Sequence[LinearOp], features: ActivationFeatures, run: RunLayer
    ) -> list[Tensor] | None:
        """Writers that meet the residual stream at one place: fitted to what the stream still lacks there."""
        behind = stream_tap(steps[0])
        assert behind is not None
        spots = [*((step.module, end) for step in steps for end in ("in", "out")), behind]
        gain, key = steps[0].gain, steps[0].joins or steps[0].writes
        ends: list[tuple[list[Tensor], Tensor]] = []

        def pairs(index: int, seen: dict[Tap, Tensor]) -> tuple[Tensor, Tensor]:
            mask = features.masks.of(index, behind[0])
            stream = seen[behind]
            # What the residual stream should be, less what others have already brought there.
            own = torch.stack([seen[step.module, "out"].reshape(stream.shape) for step in steps]).sum(0)
            others = stream - gain * own
            target = (features.transported(index, behind, key) - token_rows(others, mask)) / gain
            if steps[0].checkpoint_is_output:
                ends.append(([seen[step.module, "in"] for step in steps], others))
            return torch.cat([token_rows(seen[step.module, "in"], mask) for step in steps], dim=1), target

        found = self._regress(spots, pairs, steps, features, run, together=True)
        sizes = [self._input_output(step).shape[0] for step in steps]
        biased = [step for step in steps if f"{step.module}.bias" in self.parameters]
        for step, weight in zip(steps, found.weight.split(sizes), strict=True):
            bias = found.bias if biased[:1] == [step] else None
            self._set(step, weight, torch.zeros_like(found.bias) if bias is None and found.bias is not None else bias)
            self._record(step, found)
        with torch.no_grad():
            return [others + gain * self._written(steps, inputs, others) for inputs, others in ends] or None

    def _written(self, steps: Sequence[LinearOp], inputs: Sequence[Tensor], stream: Tensor) -> Tensor:
        """What writers add to the stream together."""
        parts = [self.model.get_submodule(step.module)(x) for step, x in zip(steps, inputs, strict=True)]
        return torch.stack([part.reshape(stream.shape) for part in parts]).sum(0)

    def _regress(
        self,
        spots: Sequence[Tap],
        pairs: Callable[[int, dict[Tap, Tensor]], tuple[Tensor, Tensor]],
        steps: Sequence[LinearOp],
        features: ActivationFeatures,
        run: RunLayer,
        *,
        together: bool = False,
    ) -> RidgeFit:
        """Stream pairs of inputs and targets into sums, and solve."""
        intercept = any(f"{step.module}.bias" in self.parameters for step in steps)
        held_out_from = len(features.masks) - self.options.held_out * features.masks.runs
        sums: dict[bool, Regression] = {}

        def visit(index: int, seen: dict[Tap, Tensor]) -> None:
            inputs, target = pairs(index, seen)
            target = target.to(inputs)
            if not sums:
                origin = (inputs.mean(0), target.mean(0)) if intercept else None
                sums.update({held: Regression(inputs.shape[1], target.shape[1], origin) for held in (False, True)})
            sums[index >= held_out_from].add(inputs, target)

        run(spots, visit)
        prior = torch.cat([self._input_output(step) for step in steps], dim=0 if together else 1)
        return fit_ridge(sums[False], sums[True], prior, intercept=intercept, ridges=self.options.ridges)

    @torch.no_grad()
    def _refit_norm(self, norm: Norm, features: ActivationFeatures, run: RunLayer) -> None:
        """Per channel, scale and shift of a norm by least squares from the student's own normalised values."""
        weight, bias = self._at_rest(norm)
        key = norm.joins or self.anatomy.axes[f"{norm.module}.weight"][0].parts[0].key
        behind = stream_tap(norm)
        sums = torch.zeros(5, weight.numel(), dtype=torch.float64)

        def visit(index: int, seen: dict[Tap, Tensor]) -> None:
            x = token_rows(seen[norm.module, "out"], features.masks.of(index, norm.module)).double()
            if behind is None:
                y = features.transported(index, (norm.module, "out"), key).double()
            else:
                others = seen[behind] - norm.gain * seen[norm.module, "out"].reshape(seen[behind].shape)
                mask = features.masks.of(index, behind[0])
                y = (features.transported(index, behind, key) - token_rows(others, mask)).double() / norm.gain
            sums.add_(torch.stack([x.sum(0), y.sum(0), (x * y).sum(0), (x * x).sum(0), torch.full_like(x[0], len(x))]))

        run([(norm.module, "out"), *([behind] if behind is not None else [])], visit)
        count = sums[4]
        x, y, xy, xx = sums[:4] / count
        if bias is None:
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        scale = (xy - x * y) / (xx - x**2).clamp(min=1e-12)
        weight.copy_(scale + norm.unit_scale - 1)
        if bias is not None:
            bias.copy_(y - scale * x)

    @torch.no_grad()
    def _refit_before_tied_head(self, norm: Norm, head: LinearOp, features: ActivationFeatures, run: RunLayer) -> None:
        """Scale and shift of a norm whose head shares its weight with the embedding: fitted to the mean logits.

        What the norm has already is corrected, so the norm itself need not run again.
        """
        table = self.parameters[head.weight].detach().double()
        sums: list[Tensor] = []

        def visit(index: int, seen: dict[Tap, Tensor]) -> None:
            mask = features.masks.of(index, head.module)
            u = token_rows(seen[head.module, "in"], mask).double()
            y = features.transported(index, (head.module, "out"), None).double()
            y = y - y.mean(dim=1, keepdim=True)
            found = [u.T @ u, u.sum(0), (u * (y @ table)).sum(0), (y @ table).sum(0), torch.tensor(float(len(u)))]
            sums[:] = [a + b for a, b in zip(sums, found, strict=True)] if sums else found

        run([(head.module, "in")], visit)
        weight, bias = self.parameters[f"{norm.module}.weight"], self.parameters.get(f"{norm.module}.bias")
        scale, shift = fit_scales(*sums, table=table, shifts=bias is not None)
        weight.copy_(scale * (weight + 1 - norm.unit_scale) + norm.unit_scale - 1)
        if bias is not None and shift is not None:
            bias.copy_(scale * bias + shift)

    def _at_rest(self, norm: Norm) -> tuple[Tensor, Tensor | None]:
        """A norm's weight and bias, set so that it only normalises."""
        weight, bias = self.parameters[f"{norm.module}.weight"], self.parameters.get(f"{norm.module}.bias")
        weight.fill_(norm.unit_scale)
        if bias is not None:
            bias.zero_()
        return weight, bias

    def _target(self, step: LinearOp, features: ActivationFeatures, batch: int) -> Tensor:
        """What a module should put out: the teachers' own output there, transported; heads: mean logits."""
        spot, axis = (step.module, "out"), write_axis(self.anatomy, step)
        if axis.fixed:
            return features.transported(batch, spot, None)
        if len(axis.parts) == 1:
            return features.transported(batch, spot, axis.parts[0].key)
        pieces = []
        for index, part in enumerate(axis.parts):
            columns = [
                place_columns(write_axis(source.anatomy, self._own(source, step)), index) for source in self.sources
            ]
            pieces.append((place_columns(axis, index), features.part(batch, spot, columns, part.key)))
        whole = torch.empty(len(pieces[0][1]), axis.size, dtype=pieces[0][1].dtype)
        for place, values in pieces:
            whole[:, place] = values
        return whole

    @staticmethod
    def _own(source: FusionTeacher, step: LinearOp) -> LinearOp:
        return replace(step, weight=source.own(step.weight))

    def _fit_side_by_side(self, steps: Sequence[LinearOp], found: RidgeFit) -> None:
        widths = [self._input_output(step).shape[1] for step in steps]
        biases = found.bias.split(widths) if found.bias is not None else [None] * len(steps)
        for step, weight, bias in zip(steps, found.weight.split(widths, dim=1), biases, strict=True):
            self._set(step, weight, bias)
            self._record(step, found)

    @torch.no_grad()
    def _set(self, step: LinearOp, weight: Tensor, bias: Tensor | None) -> None:
        first = reads_first(self.anatomy, step)
        self.parameters[step.weight].copy_(weight if first else weight.T)
        if bias is not None and f"{step.module}.bias" in self.parameters:
            self.parameters[f"{step.module}.bias"].copy_(bias)

    def _record(self, step: LinearOp, found: RidgeFit) -> None:
        # What is fitted again, behind a polish, has one entry.
        self.fits[:] = [one for one in self.fits if one["module"] != step.module]
        self.fits.append({"module": step.module, "error": found.error, "ridge": found.ridge, "prior": found.prior})

    def _input_output(self, step: LinearOp) -> Tensor:
        weight = self.parameters[step.weight].detach().double()
        return weight if reads_first(self.anatomy, step) else weight.T

"""One student in the making: maps of its spaces, transported weights, and the refit of each module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy import Anatomy, Kind, Map, Norm, Side, Step, apply
from compressor.fusion.activations import ActivationFeatures
from compressor.fusion.heads import attention_maps, group_contributions
from compressor.fusion.inner import UNIT_MAPS, UnitProblem
from compressor.fusion.moments import Features
from compressor.fusion.outline import Stage, checkpoint
from compressor.fusion.refit import RIDGES, Fit, fit
from compressor.fusion.residual import ResidualMap
from compressor.fusion.sources import Source, reads_first
from compressor.fusion.statistics import Regression, rows
from compressor.fusion.structure import write_columns
from compressor.fusion.walk import Spot, Visitor

#: Runs the student up to the watched spots, batch by batch.
Run = Callable[[Sequence[Spot], Visitor], Any]


@dataclass(frozen=True)
class BuildOptions:
    """How a student is built once its residual map is chosen.

    Attributes:
        inner: name of the map of heads and hidden units.
        cost, solver, epsilon: how its couplings are solved.
        from_weights: whether its ground costs are measured on the weights alone, though there is data.
        refit: whether linear modules are refitted.
        ridges: candidate λ of the refit.
        held_out: how many of the last batches choose λ.
    """

    inner: str
    cost: str = "euclidean"
    solver: str = "emd"
    epsilon: float = 0.05
    refit: bool = True
    ridges: tuple[float, ...] = RIDGES
    held_out: int = 0
    from_weights: bool = False


@dataclass(eq=False)
class Student:
    """A model of the target config whose weights are made from the teachers.

    Attributes:
        model: its weights are replaced piece by piece.
        anatomy: of the model.
        sources: the teachers.
        residual: their residual maps.
        options: how to build.
        couplings, fits: what was done, for the report.
    """

    model: nn.Module
    anatomy: Anatomy
    sources: Sequence[Source]
    residual: ResidualMap
    options: BuildOptions
    couplings: list[dict[str, Any]] = field(default_factory=list)
    fits: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = dict(self.model.named_parameters())
        self.maps: list[dict[str, Map]] = [{self.anatomy.residual.name: one} for one in self.residual.maps]
        self.couplings += [coupling.summary() for coupling in self.residual.couplings]

    def map_spaces(self, names: Sequence[str], features: Features) -> None:
        """Make the maps of hidden and attention spaces, for all that write or read them."""
        method = UNIT_MAPS.get(self.options.inner)
        for name in names:
            mine, theirs = self.anatomy.spaces[name], [source.anatomy.spaces[name] for source in self.sources]
            problem = UnitProblem(
                name=name,
                statistics=features.space(name),
                sizes=[space.size for space in theirs],
                weights=[source.weight for source in self.sources],
                units=mine.size,
                cost=self.options.cost,
                solver=self.options.solver,
                epsilon=self.options.epsilon,
            )
            if mine.kind is Kind.ATTENTION:
                heads = features.heads(name)
                block = (mine.heads // mine.groups) * mine.head_dim
                likeness = partial(group_contributions, heads, theirs)
                units = method(replace(problem, block=block, units=mine.groups, likeness=likeness))
                maps = attention_maps(units, theirs, mine, heads)
            else:
                units = method(problem)
                maps = tuple({name: one} for one in units.maps)
            for own, new in zip(self.maps, maps, strict=True):
                own |= new
            self.couplings += [coupling.summary() for coupling in units.couplings]

    @torch.no_grad()
    def transport(self, names: Sequence[str]) -> None:
        """Set parameters to the sum of all teachers' transported ones."""
        folded = {norm.module for norm in self.anatomy.norms if self.anatomy.canonical and norm.folded}
        moved = [
            apply(maps, source.state, source.anatomy, names)
            for maps, source in zip(self.maps, self.sources, strict=True)
        ]
        for name in names:
            module, _, attribute = name.rpartition(".")
            if module in folded:
                self.parameters[name].fill_(self.residual.norm_scale if attribute == "weight" else 0.0)
                continue
            # Push carries α already; what is written to fixed coordinates is averaged here.
            carried = any(axis.side is Side.WRITE and not axis.fixed for axis in self.anatomy.axes[name])
            shares = [1.0 if carried else source.weight for source in self.sources]
            total = torch.stack([a * one[name] for a, one in zip(shares, moved, strict=True)]).sum(0)
            self.parameters[name].copy_(total)

    def refit(self, stage: Stage, features: ActivationFeatures, run: Run) -> list[Tensor] | None:
        """Fit the modules of a stage from the student's own inputs.

        Returns:
            Per batch, the layer's new output, where the stage writes it; else None.
        """
        if isinstance(stage[0], Norm):
            self._refit_norm(stage[0], features, run)
            return None
        return self._refit_linear([step for step in stage if isinstance(step, Step)], features, run)

    def _refit_linear(self, steps: Sequence[Step], features: ActivationFeatures, run: Run) -> list[Tensor] | None:
        first, behind = steps[0], checkpoint(steps[0])
        spots: list[Spot] = [(first.module, "in")]
        if behind is not None:
            spots += [(first.module, "out"), behind]
        intercept = f"{first.module}.bias" in self.parameters
        held_out_from = len(features.masks) - self.options.held_out
        sums: dict[bool, Regression] = {}
        ends: list[tuple[Tensor, Tensor]] = []

        def visit(index: int, seen: dict[Spot, Tensor]) -> None:
            mask = features.masks[index]
            inputs = rows(seen[first.module, "in"], mask)
            if behind is None:
                target = torch.cat([self._target(step, features, index) for step in steps], dim=1)
            else:
                # What the residual stream should be, less what others have already brought there.
                others = seen[behind] - seen[first.module, "out"]
                target = features.transported(index, behind) - rows(others, mask)
                if first.checkpoint_is_output:
                    ends.append((seen[first.module, "in"], others))
            target = target.to(inputs)
            if not sums:
                origin = (inputs.mean(0), target.mean(0)) if intercept else None
                sums.update({held: Regression(inputs.shape[1], target.shape[1], origin) for held in (False, True)})
            sums[index >= held_out_from].add(inputs, target)

        run(spots, visit)
        prior = torch.cat([self._input_output(step) for step in steps], dim=1)
        self._set(steps, fit(sums[False], sums[True], prior, intercept=intercept, ridges=self.options.ridges))
        # The layer need not run again for its output: only this module's part of it has changed.
        writer = self.model.get_submodule(first.module)
        with torch.no_grad():
            return [others + writer(inputs) for inputs, others in ends] or None

    def _refit_norm(self, norm: Norm, features: ActivationFeatures, run: Run) -> None:
        """Per channel, scale and shift of a norm by least squares from the student's own normalised values."""
        weight, bias = self.parameters[f"{norm.module}.weight"], self.parameters.get(f"{norm.module}.bias")
        with torch.no_grad():
            weight.fill_(1.0)
            if bias is not None:
                bias.zero_()
        sums = torch.zeros(5, weight.numel(), dtype=torch.float64)

        def visit(index: int, seen: dict[Spot, Tensor]) -> None:
            x = rows(seen[norm.module, "out"], features.masks[index]).double()
            y = features.transported(index, (norm.module, "out")).double()
            sums.add_(torch.stack([x.sum(0), y.sum(0), (x * y).sum(0), (x * x).sum(0), torch.full_like(x[0], len(x))]))

        run([(norm.module, "out")], visit)
        count = sums[4]
        x, y, xy, xx = sums[:4] / count
        if bias is None:
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        scale = (xy - x * y) / (xx - x**2).clamp(min=1e-12)
        with torch.no_grad():
            weight.copy_(scale)
            if bias is not None:
                bias.copy_(y - scale * x)

    def _target(self, step: Step, features: ActivationFeatures, batch: int) -> Tensor:
        """What a module should put out: the teachers' own output there, transported; heads: mean logits."""
        spot = (step.module, "out")
        if step.writes is None:
            return features.transported(batch, spot, fixed=True)
        axis = next(a for a in self.anatomy.axes[f"{step.module}.weight"] if a.side is Side.WRITE)
        pieces = []
        for part in axis.parts:
            moved = []
            for k, source in enumerate(self.sources):
                value = features.values(k, batch, spot)[:, write_columns(source.anatomy, step, part.key)]
                moved.append(source.weight * value if part.key is None else self.maps[k][part.key].transport(value))
            pieces.append(torch.stack(moved).sum(0) if len(moved) > 1 else moved[0])
        return torch.cat(pieces, dim=1)

    @torch.no_grad()
    def _set(self, steps: Sequence[Step], found: Fit) -> None:
        widths = [self._input_output(step).shape[1] for step in steps]
        biases = found.bias.split(widths) if found.bias is not None else [None] * len(steps)
        for step, weight, bias in zip(steps, found.weight.split(widths, dim=1), biases, strict=True):
            self.parameters[f"{step.module}.weight"].copy_(weight if reads_first(self.anatomy, step) else weight.T)
            if bias is not None:
                self.parameters[f"{step.module}.bias"].copy_(bias)
            fitted = {"module": step.module, "error": found.error, "ridge": found.ridge, "prior": found.prior}
            self.fits.append(fitted)

    def _input_output(self, step: Step) -> Tensor:
        weight = self.parameters[f"{step.module}.weight"].detach().double()
        return weight if reads_first(self.anatomy, step) else weight.T

"""One student in the making: maps of its spaces, transported weights, and the refit of each module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressor.anatomy import Anatomy, Kind, Map, Norm, Role, Side, Space, Step, map_key
from compressor.fusion.activations import ActivationFeatures
from compressor.fusion.channels import narrowable, narrowed
from compressor.fusion.experts import expert_maps, match_experts
from compressor.fusion.heads import attention_maps, group_contributions, placed_groups
from compressor.fusion.inner import UNIT_MAPS, UnitMap, UnitProblem, among
from compressor.fusion.moments import Features
from compressor.fusion.outline import Outline, Stage
from compressor.fusion.refit import RIDGES, Fit, fit, fit_scales
from compressor.fusion.residual import ResidualMap
from compressor.fusion.rotary import Turning, turning
from compressor.fusion.sources import Source, reads_first
from compressor.fusion.statistics import Regression, rows
from compressor.fusion.structure import checkpoint, place_columns, write_axis
from compressor.fusion.unlike import alike, unlike_maps
from compressor.fusion.walk import Spot, Visitor
from compressor.fusion.weights import WeightFeatures
from compressor.transport import Coupling, sketch

#: Runs the student up to the watched spots, batch by batch.
Run = Callable[[Sequence[Spot], Visitor], Any]


@dataclass(frozen=True)
class BuildOptions:
    """How a student is built once its residual map is chosen.

    Attributes:
        inner: name of the map of heads and hidden units.
        cost, solver, epsilon: how its couplings are solved.
        owners: whether each teacher's heads and units may be taken; empty for all.
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
    owners: tuple[bool, ...] = ()
    from_weights: bool = False


@dataclass(eq=False)
class Student:
    """A model of the target config whose weights are made from the teachers.

    Attributes:
        model: its weights are replaced piece by piece.
        anatomy: of the model.
        sources: the teachers.
        residual: their maps of every residual and embedding space; and of every other one, where all were aligned to
            an anchor.
        options: how to build.
        noted: whether couplings and projections are kept for the report; those of a pilot are not.
        couplings, projections, fits: what was done, for the report; projections are maps that are no transport.
        head: how the head was fitted to the ensemble's probabilities, if it was.
    """

    model: nn.Module
    anatomy: Anatomy
    sources: Sequence[Source]
    residual: Mapping[str, ResidualMap]
    options: BuildOptions
    noted: bool = True
    couplings: list[dict[str, Any]] = field(default_factory=list)
    projections: list[dict[str, Any]] = field(default_factory=list)
    fits: list[dict[str, Any]] = field(default_factory=list)
    head: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.parameters = dict(self.model.named_parameters())
        self.maps: list[dict[str, Map]] = [
            {space: one.maps[k] for space, one in self.residual.items()} for k in range(len(self.sources))
        ]
        for space, one in self.residual.items():
            self._note(space, [{space: own} for own in one.maps], one.couplings)
        self._orders: dict[str, UnitMap] = {}
        self._outline = Outline(self.anatomy)

    def map_spaces(self, names: Sequence[str], features: Features) -> None:
        """Make the maps of hidden and attention spaces that were not given, for all that write or read them."""
        for name in names:
            if not {name, map_key(name, Role.QUERY)}.isdisjoint(self.residual):
                continue
            space = self.anatomy.spaces[name]
            maps: Sequence[dict[str, Map]]
            couplings: Sequence[Coupling] = ()
            if space.kind is Kind.EXPERTS:
                maps = match_experts(space, self.sources, self.maps, self.anatomy)
            elif space.copies > 1:
                maps = self._expert_units(space)
            elif space.kind is Kind.ATTENTION:
                maps, couplings = self._attention(space, features)
            else:
                units = self._units(self._problem(name, features))
                maps, couplings = tuple({name: one} for one in units.maps), units.couplings
            for own, new in zip(self.maps, maps, strict=True):
                own |= new
            self._note(name, maps, couplings)

    def _note(self, space: str, maps: Sequence[Mapping[str, Map]], couplings: Sequence[Coupling]) -> None:
        """Keep for the report what was transported, or what the maps look like where they are no transport."""
        if not self.noted:
            return
        # A space whose heads follow another's order has that one's couplings: they are told under its own name.
        self.couplings += [{**coupling.summary(), "space": space} for coupling in couplings]
        for key in () if couplings else maps[0]:
            pulls = [own[key].pull for own in maps]
            self.projections += [
                # Of experts' units, which have a map each, the mean.
                {
                    "space": key,
                    "source": pull.shape[-2],
                    "target": pull.shape[-1],
                    "plan": sketch(pull.square().reshape(-1, *pull.shape[-2:]).mean(0)),
                }
                for pull in pulls
            ]

    def forget(self, names: Sequence[str]) -> None:
        """Let go of the maps of a layer's own spaces: once the layer is built nothing asks for them."""
        keys = {key for name in names for key in (name, *(map_key(name, role) for role in Role))}
        for own in self.maps:
            for key in own.keys() & keys:
                del own[key]

    def _problem(self, name: str, features: Features) -> UnitProblem:
        return UnitProblem(
            name=name,
            statistics=features.space(name),
            sizes=[source.space(name).size for source in self.sources],
            weights=[source.weight for source in self.sources],
            units=self.anatomy.spaces[name].size,
            cost=self.options.cost,
            solver=self.options.solver,
            epsilon=self.options.epsilon,
        )

    def _units(self, problem: UnitProblem) -> UnitMap:
        owners = self.options.owners or [True] * len(self.sources)
        return among(UNIT_MAPS.get(self.options.inner), problem, owners)

    def _attention(self, space: Space, features: Features) -> tuple[Sequence[dict[str, Map]], Sequence[Coupling]]:
        """Heads as wholes, then their channels; spaces of one order take their heads from where the first did."""
        theirs = [source.space(space.name) for source in self.sources]
        heads = features.heads(space.name)
        fewer = narrowable(theirs, space)
        if not fewer and not alike(theirs, space):
            importance = self._problem(space.name, features).importance()
            return unlike_maps(theirs, space, heads, importance), ()
        # As many heads of the teachers' size come first; their channels then become fewer.
        whole = replace(space, head_dim=theirs[0].head_dim, size=space.heads * theirs[0].head_dim)
        units = self._orders.get(space.order or "")
        if units is None:
            problem = replace(
                self._problem(space.name, features),
                block=(whole.heads // whole.groups) * whole.head_dim,
                units=space.groups,
                likeness=partial(group_contributions, heads, theirs),
            )
            units = placed_groups(problem) if space.placed else self._units(problem)
            if space.order:
                self._orders[space.order] = units
        maps = attention_maps(units, theirs, whole, heads)
        if fewer:
            turns = self._turns(space) if space.rotary else None
            maps = narrowed(maps, theirs, space, heads, turns, spaced=self.options.inner == "slice")
        return maps, units.couplings

    def _turns(self, space: Space) -> Turning:
        """Which pairs of rotary channels go together."""
        found = turning([source.model for source in self.sources], self.model, space.pairs)
        # Shapes with smaller heads are offered only where frequencies are alike.
        assert found is not None
        return found

    def _expert_units(self, space: Space) -> Sequence[dict[str, Map]]:
        """Every expert chooses units of the experts matched to it, on the weights: few tokens reach each."""
        features = WeightFeatures(self.sources, self.maps, self.anatomy)
        problem = UnitProblem(
            name=space.name,
            statistics=features.expert(space.name, [torch.arange(space.copies)] * len(self.sources), 0),
            sizes=[source.space(space.name).size for source in self.sources],
            weights=[source.weight for source in self.sources],
            units=space.size,
        )
        return expert_maps(space, problem, self.options.inner, features, self.maps)

    @torch.no_grad()
    def transport(self, names: Sequence[str]) -> None:
        """Set parameters to the sum of all teachers' transported ones."""
        norms = {norm.module: norm for norm in self.anatomy.norms if norm.space in self.residual}
        scales = {scale.parameter for scale in self.anatomy.scales}
        for name in names:
            module, _, attribute = name.rpartition(".")
            norm = norms.get(module)
            if name in scales:
                self.parameters[name].fill_(1.0)
                continue
            if norm is not None and attribute == "weight" and self.anatomy.rotatable(norm.space or ""):
                # Behind rotated coordinates a norm has one scale for all: its own was folded, or is fitted later.
                self.parameters[name].fill_(self.residual[norm.space or ""].norm_scale + norm.rest - 1)
                continue
            # Push carries α already; what is written to fixed coordinates is averaged here.
            carried = any(
                axis.side is Side.WRITE and part.key is not None and not self._is_experts(part.key)
                for axis in self.anatomy.axes[name]
                for part in axis.parts
            )
            self.parameters[name].copy_(self._total(name, carried))

    def _total(self, name: str, carried: bool) -> Tensor:
        """The sum of all teachers' transported parameters of one name, float64; each is let go of once it is added."""
        total: Tensor | None = None
        for source, maps in zip(self.sources, self.maps, strict=True):
            moved = (1.0 if carried else source.weight) * source.transported(maps, name, self.anatomy)
            total = moved if total is None else total.add_(moved)
        assert total is not None
        return total

    def _is_experts(self, key: str) -> bool:
        space = self.anatomy.spaces.get(key)
        return space is not None and space.kind is Kind.EXPERTS

    @torch.no_grad()
    def rescale(self, names: Sequence[str], gain: float) -> None:
        """Multiply embeddings by what their family multiplies them by less at the student's width (Gemma's √width)."""
        for name in names:
            self.parameters[name].mul_(gain)

    def refit(self, stage: Stage, features: ActivationFeatures, run: Run) -> list[Tensor] | None:
        """Fit the modules of a stage from the student's own inputs.

        Returns:
            Per batch, the layer's new output, where the stage writes it; else None.
        """
        first = stage[0]
        if isinstance(first, Norm):
            heads = [step for step in stage[1:] if isinstance(step, Step)]
            if heads:
                self._refit_before_tied_head(first, heads[0], features, run)
            else:
                self._refit_norm(first, features, run)
            return None
        steps = [step for step in stage if isinstance(step, Step)]
        if checkpoint(first) is not None:
            return self._refit_writers(steps, features, run)
        self._refit_linears(steps, features, run)
        return None

    def _refit_linears(self, steps: Sequence[Step], features: ActivationFeatures, run: Run) -> None:
        """Linear maps that read the same input: fitted to what the teachers' own put out, transported."""
        first = steps[0]

        def pairs(index: int, seen: dict[Spot, Tensor]) -> tuple[Tensor, Tensor]:
            inputs = rows(seen[first.module, "in"], features.masks.of(index, first.module))
            return inputs, torch.cat([self._target(step, features, index) for step in steps], dim=1)

        self._fit_side_by_side(steps, self._regress([(first.module, "in")], pairs, steps, features, run))

    def _refit_writers(self, steps: Sequence[Step], features: ActivationFeatures, run: Run) -> list[Tensor] | None:
        """Writers that meet the residual stream at one place: fitted to what the stream still lacks there."""
        behind = checkpoint(steps[0])
        assert behind is not None
        spots = [*((step.module, end) for step in steps for end in ("in", "out")), behind]
        gain, key = steps[0].gain, steps[0].meets or steps[0].writes
        ends: list[tuple[list[Tensor], Tensor]] = []

        def pairs(index: int, seen: dict[Spot, Tensor]) -> tuple[Tensor, Tensor]:
            mask = features.masks.of(index, behind[0])
            stream = seen[behind]
            # What the residual stream should be, less what others have already brought there.
            own = torch.stack([seen[step.module, "out"].reshape(stream.shape) for step in steps]).sum(0)
            others = stream - gain * own
            target = (features.transported(index, behind, key) - rows(others, mask)) / gain
            if steps[0].checkpoint_is_output:
                ends.append(([seen[step.module, "in"] for step in steps], others))
            return torch.cat([rows(seen[step.module, "in"], mask) for step in steps], dim=1), target

        found = self._regress(spots, pairs, steps, features, run, together=True)
        sizes = [self._input_output(step).shape[0] for step in steps]
        biased = [step for step in steps if f"{step.module}.bias" in self.parameters]
        for step, weight in zip(steps, found.weight.split(sizes), strict=True):
            bias = found.bias if biased[:1] == [step] else None
            self._set(step, weight, torch.zeros_like(found.bias) if bias is None and found.bias is not None else bias)
            self._record(step, found)
        with torch.no_grad():
            return [others + gain * self._written(steps, inputs, others) for inputs, others in ends] or None

    def _written(self, steps: Sequence[Step], inputs: Sequence[Tensor], stream: Tensor) -> Tensor:
        """What writers add to the stream together."""
        parts = [self.model.get_submodule(step.module)(x) for step, x in zip(steps, inputs, strict=True)]
        return torch.stack([part.reshape(stream.shape) for part in parts]).sum(0)

    def _regress(
        self,
        spots: Sequence[Spot],
        pairs: Callable[[int, dict[Spot, Tensor]], tuple[Tensor, Tensor]],
        steps: Sequence[Step],
        features: ActivationFeatures,
        run: Run,
        *,
        together: bool = False,
    ) -> Fit:
        """Stream pairs of inputs and targets into sums, and solve."""
        intercept = any(f"{step.module}.bias" in self.parameters for step in steps)
        held_out_from = len(features.masks) - self.options.held_out * features.masks.runs
        sums: dict[bool, Regression] = {}

        def visit(index: int, seen: dict[Spot, Tensor]) -> None:
            inputs, target = pairs(index, seen)
            target = target.to(inputs)
            if not sums:
                origin = (inputs.mean(0), target.mean(0)) if intercept else None
                sums.update({held: Regression(inputs.shape[1], target.shape[1], origin) for held in (False, True)})
            sums[index >= held_out_from].add(inputs, target)

        run(spots, visit)
        prior = torch.cat([self._input_output(step) for step in steps], dim=0 if together else 1)
        return fit(sums[False], sums[True], prior, intercept=intercept, ridges=self.options.ridges)

    @torch.no_grad()
    def _refit_norm(self, norm: Norm, features: ActivationFeatures, run: Run) -> None:
        """Per channel, scale and shift of a norm by least squares from the student's own normalised values."""
        weight, bias = self._at_rest(norm)
        key = norm.meets or self.anatomy.axes[f"{norm.module}.weight"][0].parts[0].key
        behind = checkpoint(norm)
        sums = torch.zeros(5, weight.numel(), dtype=torch.float64)

        def visit(index: int, seen: dict[Spot, Tensor]) -> None:
            x = rows(seen[norm.module, "out"], features.masks.of(index, norm.module)).double()
            if behind is None:
                y = features.transported(index, (norm.module, "out"), key).double()
            else:
                others = seen[behind] - norm.gain * seen[norm.module, "out"].reshape(seen[behind].shape)
                mask = features.masks.of(index, behind[0])
                y = (features.transported(index, behind, key) - rows(others, mask)).double() / norm.gain
            sums.add_(torch.stack([x.sum(0), y.sum(0), (x * y).sum(0), (x * x).sum(0), torch.full_like(x[0], len(x))]))

        run([(norm.module, "out"), *([behind] if behind is not None else [])], visit)
        count = sums[4]
        x, y, xy, xx = sums[:4] / count
        if bias is None:
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        scale = (xy - x * y) / (xx - x**2).clamp(min=1e-12)
        weight.copy_(scale + norm.rest - 1)
        if bias is not None:
            bias.copy_(y - scale * x)

    @torch.no_grad()
    def _refit_before_tied_head(self, norm: Norm, head: Step, features: ActivationFeatures, run: Run) -> None:
        """Scale and shift of a norm whose head shares its weight with the embedding: fitted to the mean logits.

        What the norm has already is corrected, so the norm itself need not run again.
        """
        table = self.parameters[head.weight].detach().double()
        sums: list[Tensor] = []

        def visit(index: int, seen: dict[Spot, Tensor]) -> None:
            mask = features.masks.of(index, head.module)
            u = rows(seen[head.module, "in"], mask).double()
            y = features.transported(index, (head.module, "out"), None).double()
            y = y - y.mean(dim=1, keepdim=True)
            found = [u.T @ u, u.sum(0), (u * (y @ table)).sum(0), (y @ table).sum(0), torch.tensor(float(len(u)))]
            sums[:] = [a + b for a, b in zip(sums, found, strict=True)] if sums else found

        run([(head.module, "in")], visit)
        weight, bias = self.parameters[f"{norm.module}.weight"], self.parameters.get(f"{norm.module}.bias")
        scale, shift = fit_scales(*sums, table=table, shifts=bias is not None)
        weight.copy_(scale * (weight + 1 - norm.rest) + norm.rest - 1)
        if bias is not None and shift is not None:
            bias.copy_(scale * bias + shift)

    def _at_rest(self, norm: Norm) -> tuple[Tensor, Tensor | None]:
        """A norm's weight and bias, set so that it only normalises."""
        weight, bias = self.parameters[f"{norm.module}.weight"], self.parameters.get(f"{norm.module}.bias")
        weight.fill_(norm.rest)
        if bias is not None:
            bias.zero_()
        return weight, bias

    def _target(self, step: Step, features: ActivationFeatures, batch: int) -> Tensor:
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
    def _own(source: Source, step: Step) -> Step:
        return replace(step, weight=source.own(step.weight))

    def _fit_side_by_side(self, steps: Sequence[Step], found: Fit) -> None:
        widths = [self._input_output(step).shape[1] for step in steps]
        biases = found.bias.split(widths) if found.bias is not None else [None] * len(steps)
        for step, weight, bias in zip(steps, found.weight.split(widths, dim=1), biases, strict=True):
            self._set(step, weight, bias)
            self._record(step, found)

    @torch.no_grad()
    def _set(self, step: Step, weight: Tensor, bias: Tensor | None) -> None:
        first = reads_first(self.anatomy, step)
        self.parameters[step.weight].copy_(weight if first else weight.T)
        if bias is not None and f"{step.module}.bias" in self.parameters:
            self.parameters[f"{step.module}.bias"].copy_(bias)

    def _record(self, step: Step, found: Fit) -> None:
        self.fits.append({"module": step.module, "error": found.error, "ridge": found.ridge, "prior": found.prior})

    def _input_output(self, step: Step) -> Tensor:
        weight = self.parameters[step.weight].detach().double()
        return weight if reads_first(self.anatomy, step) else weight.T

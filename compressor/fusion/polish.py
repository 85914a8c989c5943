"""The polish: hidden units and their reader fitted together to what the residual stream lacks behind them.

A linear refit makes each of the student's units the copy of a unit that a teacher has.  Where a narrow stream does not
carry what that unit reads, or where fewer units must do the work of all, other units would serve better; which ones is
a least-squares problem that is not linear any more.  It is solved from the linear refit on by descent on one module
alone: without labels, and without a gradient that passes from one layer to another (layer-wise reconstruction).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.anatomy import Kind, Step
from compressor.anatomy.trace import first_tensor, hooks
from compressor.fusion.activations import ActivationFeatures
from compressor.fusion.fitting import Run
from compressor.fusion.masks import Masks
from compressor.fusion.outline import Stage
from compressor.fusion.samples import turns
from compressor.fusion.statistics import rows
from compressor.fusion.structure import checkpoint, writers
from compressor.fusion.student import Student
from compressor.fusion.walk import Spot

#: Tokens of one step of the descent, and how many such heaps there must be: fewer tokens say little of others.
TOKENS, FEWEST = 4096, 2
#: Steps between looks at the held-out samples.
LOOK = 50
#: Learning rate in units of a parameter's root mean square.
RATE = 0.05
#: Share of the target's energy below which there is nothing to gain.
EXACT = 1e-6
#: Relative difference up to which a module alone does what it does in its layer.
ALIKE = 1e-4


@dataclass(frozen=True, eq=False)
class Units:
    """Hidden units and their reader as a function of their own, in float32.

    Attributes:
        inner: copy of the smallest module that maps what the units read to what their reader reads.
        reader: copy of the linear module that reads them; part of `inner`, or run behind it.
        inside: whether it is part of it.
    """

    inner: nn.Module
    reader: nn.Module
    inside: bool

    def __call__(self, inputs: Tensor) -> Tensor:
        """What the reader puts out [T, m] for inputs [T, n]."""
        return self.both(inputs)[1]

    def both(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the reader reads and what it puts out."""
        if not self.inside:
            read = first_tensor(self.inner(inputs[None]))
            assert read is not None
            return read[0], self.reader(read)[0]
        seen: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.extend((args[0], output))

        with hooks([self.reader.register_forward_hook(note)]):
            self.inner(inputs[None])
        return seen[0].reshape(len(inputs), -1), seen[1].reshape(len(inputs), -1)

    def parameters(self) -> list[nn.Parameter]:
        """Of the units and their reader."""
        return list(dict.fromkeys([*self.inner.parameters(), *self.reader.parameters()]))


@dataclass(frozen=True, eq=False)
class Tokens:
    """What units read [T, n], and what their reader should put out [T, m]."""

    inputs: Tensor
    wanted: Tensor

    def missed(self, units: Units) -> Tensor:
        """The squared error as a share of the target's energy about its mean."""
        spread = (self.wanted - self.wanted.mean(0)).square().sum().clamp(min=1e-30)
        return (units(self.inputs) - self.wanted).square().sum() / spread


def polish(student: Student, stage: Stage, features: ActivationFeatures, run: Run) -> bool:
    """Fit the hidden units that a stage reads together with their reader, if held-out samples gain by it.

    Args:
        student: its linear modules have been refitted up to and with this stage; what is done is noted with it.
        stage: writers of the residual stream; others than readers of hidden units are left alone.
        features: what the teachers showed, transported.
        run: of the student's layer.

    Returns:
        Whether anything changed.
    """
    readers = [step for step in stage if isinstance(step, Step) and _hidden(student, step)]
    if len(readers) != 1 or not student.options.held_out or checkpoint(readers[0]) is None:
        return False
    step = readers[0]
    first = writers(student.anatomy, step.reads or "")[0].module
    train, held_out, seen = _tokens(student, step, first, features, run)
    found = _alone(student.model, first, step.module, seen) if len(train) >= FEWEST and held_out else None
    if found is None:
        return False
    path, units = found
    before, after, best = _descend(units, train, _joined(held_out), student.options.polish)
    if best is None:
        return False
    # Units and reader in the order in which their copies list them.
    own = dict.fromkeys([*student.model.get_submodule(path).parameters(), *_parameters(student.model, step.module)])
    with torch.no_grad():
        for parameter, value in zip(own, best, strict=True):
            parameter.copy_(value)
    student.polished.append({"module": step.module, "before": before, "after": after})
    return True


def _hidden(student: Student, step: Step) -> bool:
    space = student.anatomy.spaces.get(step.reads or "")
    return space is not None and space.kind is Kind.HIDDEN and space.copies == 1


def _parameters(model: nn.Module, module: str) -> list[nn.Parameter]:
    return list(model.get_submodule(module).parameters())


def _tokens(
    student: Student, step: Step, first: str, features: ActivationFeatures, run: Run
) -> tuple[list[Tokens], list[Tokens], tuple[Tensor, Tensor]]:
    """Heaps of tokens to learn from, those held out, and a look at what the units and their reader read."""
    behind = checkpoint(step)
    assert behind is not None
    masks, gain, key = features.masks, step.gain, step.meets or step.writes
    held_out_from = len(masks) - student.options.held_out * masks.runs
    inputs: list[Tensor] = []
    wanted: list[Tensor] = []
    reads: list[Tensor] = []

    def visit(index: int, seen: dict[Spot, Tensor]) -> None:
        mask, stream = masks.of(index, behind[0]), seen[behind]
        others = stream - gain * seen[step.module, "out"].reshape(stream.shape)
        target = (features.transported(index, behind, key) - rows(others, mask)) / gain
        inputs.append(rows(seen[first, "in"], mask).float())
        wanted.append(target.float())
        if not index:
            reads.append(rows(seen[step.module, "in"], mask))

    run([(first, "in"), (step.module, "in"), (step.module, "out"), behind], visit)
    count = sum(len(one) for one in inputs[:held_out_from])
    heaps = max(1, round(count / TOKENS))
    dealt: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(heaps)]
    for index in range(held_out_from):
        heap = _dealt(masks, index, behind[0], len(inputs[index]), heaps)
        for number, (own, targets) in enumerate(dealt):
            own.append(inputs[index][heap == number])
            targets.append(wanted[index][heap == number])
    train = [Tokens(torch.cat(own), torch.cat(targets)) for own, targets in dealt]
    held_out = [Tokens(*pair) for pair in zip(inputs[held_out_from:], wanted[held_out_from:], strict=True)]
    return train, held_out, (inputs[0], reads[0])


def _dealt(masks: Masks, index: int, module: str, count: int, heaps: int) -> Tensor:
    mask, keys = masks.of(index, module), masks.keys(index)
    shape = (len(keys), count // len(keys)) if mask is None else (mask.shape[0], mask.shape[1])
    return turns(keys, shape, mask, heaps)


def _joined(tokens: Sequence[Tokens]) -> Tokens:
    return Tokens(torch.cat([one.inputs for one in tokens]), torch.cat([one.wanted for one in tokens]))


def _alone(model: nn.Module, first: str, reader: str, seen: tuple[Tensor, Tensor]) -> tuple[str, Units] | None:
    """The units as a function of their own, and the path of the module whose parameters they have beside the reader's.

    It is the smallest module that, given what the units read, makes what their reader was seen to read.

    Args:
        model: the student.
        first: path of a linear module that writes the units.
        reader: path of the one that reads them.
        seen: what the units read, and what the reader read then.
    """
    inputs, wanted = seen
    for path, module in _around(model, first):
        inside = reader.startswith(path + ".")
        inner = copy.deepcopy(module).float()
        behind = inner.get_submodule(reader[len(path) + 1 :]) if inside else copy.deepcopy(model.get_submodule(reader))
        units = Units(inner, behind.float(), inside)
        try:
            made = units.both(inputs)[0]
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):
            # A module that needs more than one tensor, or does something else with it, does not stand alone.
            continue
        if made.shape == wanted.shape and float((made - wanted).norm()) <= ALIKE * float(wanted.norm()):
            return path, units
        if inside:
            return None
    return None


def _around(model: nn.Module, first: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules around a linear one, the smallest first, each with the path whose parameters it has.

    Where a layer applies the activation itself, that is a module of its own: it stands behind the linear one.
    """
    path = first
    while "." in path:
        path = path.rpartition(".")[0]
        for child in model.get_submodule(path).children():
            if next(child.parameters(), None) is None:
                yield first, nn.Sequential(model.get_submodule(first), child)
        yield path, model.get_submodule(path)


def _descend(
    units: Units, heaps: Sequence[Tokens], held_out: Tokens, steps: int
) -> tuple[float, float, list[Tensor] | None]:
    """Held-out error before and after, and the best parameters; None where the first are."""
    parameters = units.parameters()
    with torch.no_grad():
        before = best = float(held_out.missed(units))
    kept: list[Tensor] | None = None
    if not before > EXACT:
        return before, before, None
    with torch.enable_grad():
        sizes = [float(p.detach().square().mean().sqrt()) for p in parameters]
        usual = max(sizes)
        groups = [
            # A bias at rest has no size of its own.
            {"params": [p.requires_grad_(True)], "lr": RATE * (size if p.dim() > 1 else usual)}
            for p, size in zip(parameters, sizes, strict=True)
        ]
        optimiser = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for number in range(steps):
            optimiser.zero_grad()
            heaps[number % len(heaps)].missed(units).backward()
            optimiser.step()
            schedule.step()
            if (number + 1) % LOOK == 0 or number + 1 == steps:
                with torch.no_grad():
                    now = float(held_out.missed(units))
                if now < best:
                    best, kept = now, [parameter.detach().clone() for parameter in parameters]
    return before, best, kept

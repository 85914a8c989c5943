"""The head, fitted last to what the ensemble says: multinomial logistic regression, a convex problem of one matrix.

Least squares on mean logits counts every class alike, however unlikely; of a large vocabulary most of the fit then goes
to tokens that nobody expects.  What is wanted is little KL(ensemble || student), and for given features that is convex
in the head: it starts from the least-squares fit and ends where held-out samples gain no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from compressor.anatomy import LinearOp, Norm
from compressor.anatomy.queries import write_axis
from compressor.fusion.build.logistic import FittedHead, FreeHead, HeadData, TiedHead, fit_logistic
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import thinned_tokens
from compressor.fusion.calibration.layerwise import LayerwiseRunner, Tap
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.plan import BuildPlan
from compressor.fusion.teacher import reads_first

#: Tokens times classes from which a head is fitted, and those times inputs, about: half a minute of one core.
ENTRIES, WORK = 1 << 27, 1 << 34
#: Tokens for each of a head's inputs below which it keeps its least squares: of a large vocabulary few tokens are
#: taken, and a fit to fewer of them than it has inputs says little of others.
FEWEST = 2
#: Logits that differ from the head's outputs by more than this share are not those outputs, scaled.
UNSCALED = 1e-5


def refit_head(
    student: StudentBuilder, walker: LayerwiseRunner, teachers: Sequence[LayerwiseRunner], masks: Masks
) -> None:
    """Fit the head of a student that is built otherwise, if held-out samples gain by it.

    Args:
        student: with a head whose logits are its outputs, scaled at most; it is left alone otherwise.
        walker, teachers: the student's and every teacher's, behind their last layers.
        masks: which tokens of each batch count.
    """
    found = _head_of(student)
    held_out_from = len(masks) - student.options.held_out
    if found is None or not student.options.held_out:
        return
    module, norm, step = found
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def visit(index: int, seen: dict[Tap, Tensor]) -> None:
        inputs.append(seen[module, "in"])
        if not index:
            outputs.append(seen[module, "out"])

    walker.finish([(module, "in"), (module, "out")], visit)
    scale = _scale(outputs[0], walker.say(0))
    reads, classes = inputs[0].shape[-1], outputs[0].shape[-1]
    tokens = masks.count(module, inputs)
    stride = max(1, round(tokens * classes / min(ENTRIES, WORK // reads)))
    if scale is None or classes < 2 or tokens / stride < FEWEST * reads:
        return
    shares = [source.weight for source in student.sources]

    def say(index: int, kept: Callable[[Tensor], Tensor]) -> Tensor:
        """The ensemble's probabilities for the tokens of a batch that are kept."""
        parts = [share * kept(one.say(index)).softmax(-1) for share, one in zip(shares, teachers, strict=True)]
        return sum(parts[1:], start=parts[0])

    answers, held_out = _answers(inputs, say, masks, module, stride, held_out_from)
    head = _made(student, norm, step, answers)
    before, after, change = fit_logistic(head, answers, held_out, scale)
    if after < before:
        head.set(change)
        student.head = {"module": module, "least_squares_kl": before, "kl": after}


def _head_of(student: StudentBuilder) -> tuple[str, Norm | None, LinearOp] | None:
    """The only module that puts out logits, the norm in front of it where it is tied, and its step."""
    outline = BuildPlan(student.anatomy)
    free = [
        item
        for item in outline.tail
        if isinstance(item, LinearOp) and not item.tied and write_axis(student.anatomy, item).fixed
    ]
    tied = outline.before_tied
    if student.anatomy.output is not None or len(free) + len(tied) != 1:
        return None
    norm, step = tied[0] if tied else (None, free[0])
    # The last layer's own norm would have to run again, which only what lies behind the layers does.
    inside = norm is not None and norm.module.startswith(tuple(f"{layer}." for layer in student.anatomy.layers))
    return None if inside else (step.module, norm, step)


def _made(student: StudentBuilder, norm: Norm | None, step: LinearOp, answers: HeadData) -> FittedHead:
    parameters = student.parameters
    weight, offset = parameters[step.weight].detach(), parameters.get(f"{step.module}.bias")
    bias = None if offset is None else offset.detach()
    if norm is None:
        transposed = reads_first(student.anatomy, step)
        return FreeHead.of(weight, bias, answers.inputs, answers.wanted, transposed=transposed)
    shift = parameters.get(f"{norm.module}.bias")
    own = parameters[f"{norm.module}.weight"].detach()
    return TiedHead(weight, bias, own, None if shift is None else shift.detach(), norm.unit_scale)


def _scale(outputs: Tensor, logits: Tensor) -> float | None:
    """How many times the head's outputs the logits are; None if they are no multiple of them."""
    if outputs.shape != logits.shape:
        return None
    scale = float((outputs * logits).sum() / outputs.square().sum().clamp(min=1e-30))
    missed = (logits - scale * outputs).norm() / logits.norm().clamp(min=1e-30)
    return scale if float(missed) < UNSCALED else None


def _answers(
    inputs: Sequence[Tensor],
    say: Callable[[int, Callable[[Tensor], Tensor]], Tensor],
    masks: Masks,
    module: str,
    stride: int,
    held_out_from: int,
) -> tuple[HeadData, HeadData]:
    """Every `stride`-th token, by the hash of what it belongs to; those held out apart."""
    parts: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    for index, read in enumerate(inputs):
        kept = partial(_kept, masks, index, module, stride)
        parts[index >= held_out_from].append((kept(read), say(index, kept)))
    joined = [HeadData(*(torch.cat(side) for side in zip(*parts[held], strict=True))) for held in (False, True)]
    return joined[0], joined[1]


def _kept(masks: Masks, index: int, module: str, stride: int, values: Tensor) -> Tensor:
    """Some token vectors of a batch [B, ..., n], without padding."""
    mask, keys = masks.of(index, module), masks.keys(index)
    vectors = token_rows(values, mask)
    if stride == 1:
        return vectors
    shape = tuple(mask.shape) if mask is not None else (len(keys), len(vectors) // len(keys))
    return vectors[thinned_tokens(keys, (shape[0], shape[1]), mask, stride)]

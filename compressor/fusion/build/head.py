"""Fit the head last, to the ensemble's probabilities.

Logistic regression is convex; least squares counts unlikely classes too much.  Values keep their least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from compressor.anatomy import LinearOp, Norm
from compressor.anatomy.hooks import Tap
from compressor.anatomy.queries import write_axis
from compressor.ensemble.answers import ANSWERS
from compressor.ensemble.probabilities import mix_predictions
from compressor.fusion.build.logistic import FittedHead, FreeHead, HeadData, TiedHead, fit_logistic
from compressor.fusion.build.student import StudentBuilder
from compressor.fusion.calibration.batches import CalibrationSet, thinned_tokens
from compressor.fusion.calibration.layerwise import LayerwiseRunner
from compressor.fusion.calibration.masks import Masks
from compressor.fusion.calibration.processes import ALONE, Processes
from compressor.fusion.calibration.statistics import token_rows
from compressor.fusion.teacher import as_matrix, reads_first
from compressor.models.tasks.table import task_of_model

#: Most tokens times classes of a fit, and those times inputs: half a minute of one core.
HEAD_ENTRIES, HEAD_WORK = 1 << 27, 1 << 34
#: Tokens per input of the head below which it keeps its least squares: few tokens do not generalise.
TOKENS_PER_INPUT = 2
#: Relative difference up to which logits are scaled outputs of the head.
SCALE_TOLERANCE = 1e-5


def refit_head(
    student: StudentBuilder,
    runner: LayerwiseRunner,
    teachers: Sequence[LayerwiseRunner],
    masks: Masks,
    calibration: CalibrationSet,
    processes: Processes = ALONE,
) -> None:
    """Fit the head of an otherwise built student, if held-out samples gain.

    Args:
        calibration: this process's samples, as those of the masks and runners.
        student: unchanged unless its logits are its head's outputs, up to a factor.
        runner, teachers: after their last layers.
    """
    located, kind = locate_head(student), task_of_model(student.model).answers
    judged = processes.total(len(calibration.held_out)) > 0
    if located is None or kind == "values" or not (judged or student.options.pilot_head):
        return
    module, norm, op = located
    inputs = runner.new_list()
    outputs: list[Tensor] = []

    def on_batch(index: int, captured: dict[Tap, Tensor]) -> None:
        inputs.append(captured[module, "in"])
        if not index:
            outputs.append(captured[module, "out"])

    runner.capture_tail([(module, "in"), (module, "out")], on_batch)
    scale = _scale(outputs[0], runner.logits(0), processes)
    width, classes = inputs[0].shape[-1], outputs[0].shape[-1]
    tokens = processes.total(masks.count(module, inputs))
    stride = max(1, round(tokens * classes / min(HEAD_ENTRIES, HEAD_WORK // width)))
    if scale is None or (classes < 2 and kind != "labels") or tokens / stride < TOKENS_PER_INPUT * width:
        return
    shares = [teacher.weight for teacher in student.teachers]

    def ensemble(index: int, select: Callable[[Tensor], Tensor]) -> Tensor:
        """Ensemble probabilities for selected tokens."""
        if kind == "labels":
            log_odds = [select(t.logits(index)) for t in teachers]
            return ANSWERS[kind].mix(log_odds, shares, student.options.mixing).sigmoid()
        if student.options.mixing != 1:
            rows = [select(t.logits(index)).log_softmax(-1) for t in teachers]
            return mix_predictions(rows, shares, student.options.mixing).exp()
        parts = [share * select(t.logits(index)).softmax(-1) for share, t in zip(shares, teachers, strict=True)]
        return sum(parts[1:], start=parts[0])

    train, held_out = _head_data(inputs, ensemble, masks, module, stride, calibration)
    train = replace(train, labels=kind == "labels")
    # Pilots hold nothing out; by the tokens that there are for each input they overfit little.
    held_out = (train.first(0) if judged else train) if held_out is None else replace(held_out, labels=train.labels)
    head = _fitted_head(student, norm, op, train, processes)
    before, after, change = fit_logistic(head, train, held_out, scale, processes)
    if after < before:
        head.set(change)
        student.report.head = {"module": module, "least_squares_kl": before, "kl": after}


def locate_head(student: StudentBuilder) -> tuple[str, Norm | None, LinearOp] | None:
    """The only head: module, norm if tied, op."""
    free = [
        item
        for item in student.plan.tail
        if isinstance(item, LinearOp) and not item.tied and write_axis(student.anatomy, item).fixed
    ]
    tied = student.plan.tied_heads
    if student.anatomy.output is not None or len(free) + len(tied) != 1:
        return None
    if not tied:
        return free[0].module, None, free[0]
    norm, op = tied[0].norm, tied[0].head
    # Only modules after the layers run again, not the last layer's own norm.
    inside = norm.module.startswith(tuple(f"{layer}." for layer in student.anatomy.layers))
    return None if inside else (op.module, norm, op)


def _fitted_head(
    student: StudentBuilder, norm: Norm | None, op: LinearOp, data: HeadData, processes: Processes
) -> FittedHead:
    parameters = student.parameters
    # Of the module: a bias that is tied too (BERT's) has the name of its source.
    weight, offset = (
        as_matrix(parameters[op.weight].detach()),
        getattr(student.model.get_submodule(op.module), "bias", None),
    )
    bias = None if offset is None else offset.detach()
    if norm is None:
        return FreeHead.of(weight, bias, data, processes, transposed=reads_first(student.anatomy, op))
    shift = parameters.get(f"{norm.module}.bias")
    norm_weight = parameters[f"{norm.module}.weight"].detach()
    return TiedHead(weight, bias, norm_weight, None if shift is None else shift.detach(), norm.unit_scale)


def _scale(outputs: Tensor, logits: Tensor, processes: Processes) -> float | None:
    """Factor from head outputs to logits, by the first process's samples."""
    if outputs.shape != logits.shape:
        return None
    scale = float((outputs * logits).sum() / outputs.square().sum().clamp(min=1e-30))
    error = float((logits - scale * outputs).norm() / logits.norm().clamp(min=1e-30))
    return processes.first(scale) if processes.first(error) < SCALE_TOLERANCE else None


def _head_data(
    inputs: Sequence[Tensor],
    ensemble: Callable[[int, Callable[[Tensor], Tensor]], Tensor],
    masks: Masks,
    module: str,
    stride: int,
    calibration: CalibrationSet,
) -> tuple[HeadData, HeadData | None]:
    """Thinned train and held-out tokens, if any."""
    parts: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    for index, batch_inputs in enumerate(inputs):
        select = partial(_select, masks, index, module, stride)
        parts[calibration.is_held_out(index)].append((select(batch_inputs), ensemble(index, select)))
    train, held_out = (HeadData.joined(parts[held]) if parts[held] else None for held in (False, True))
    assert train is not None
    return train, held_out


def _select(masks: Masks, index: int, module: str, stride: int, values: Tensor) -> Tensor:
    """Thinned, unpadded tokens of [B, ..., n]."""
    mask, keys = masks.of(index, module), masks.keys(index)
    vectors = token_rows(values, mask)
    if stride == 1:
        return vectors
    shape = tuple(mask.shape) if mask is not None else (len(keys), len(vectors) // len(keys))
    return vectors[thinned_tokens(keys, (shape[0], shape[1]), mask, stride).to(vectors.device)]

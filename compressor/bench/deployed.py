"""How good exported files are on data, beside the model they were made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from compressor.bench.accuracy import EvaluationBatch, Score, new_tally, predict


@dataclass(frozen=True)
class DeployedScore:
    """What files answer, and how far that is from what the model answers.

    Attributes:
        score: of the files' answers; its KL is from the model's.
        agreement: share of the positions that count whose largest logit is the model's.
        error: ‖files' − model's‖ / ‖model's‖ over the logits of those positions, each row less its mean: a constant
            added to a row changes no answer.
    """

    score: Score
    agreement: float
    error: float


def measure_deployed(
    model: PreTrainedModel, files: Mapping[str, Callable[[EvaluationBatch], Tensor]], batches: Iterable[EvaluationBatch]
) -> tuple[Score, dict[str, DeployedScore]]:
    """The score of a model, and of each of its exports, on the same batches; one pass over them.

    Args:
        model: on any device.
        files: by name, from a batch of inputs to logits [B, C] or [B, T, C].
        batches: labelled or not.

    Raises:
        UserError: there are no samples, or only some of them have labels.
    """
    own, tallies = new_tally(model), {name: new_tally(model) for name in files}
    same, squares = dict.fromkeys(files, 0), dict.fromkeys(files, 0.0)
    rows, size = 0, 0.0
    for found in predict([model], batches):
        (expected,) = found.log_probs
        own.add(expected, found.inputs, found.labels)
        wanted = own.task.counted(expected, found.inputs).double()
        centred = wanted - wanted.mean(-1, keepdim=True)
        rows, size = rows + len(wanted), size + float(centred.square().sum())
        for name, run in files.items():
            given = run(found.inputs).float().log_softmax(-1)
            tallies[name].add(given, found.inputs, found.labels, expected)
            counted = own.task.counted(given, found.inputs).double()
            same[name] += int((counted.argmax(-1) == wanted.argmax(-1)).sum())
            squares[name] += float((counted - counted.mean(-1, keepdim=True) - centred).square().sum())
    return own.score(), {
        name: DeployedScore(tally.score(), same[name] / rows, math.sqrt(squares[name] / max(size, 1e-24)))
        for name, tally in tallies.items()
    }

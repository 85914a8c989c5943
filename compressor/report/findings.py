"""What went wrong or is worth a sentence in the results of a run; every threshold for that is here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compressor.bench.metrics import format_accuracy, main_metric
from compressor.bench.rows import format_kl

#: Standard errors of a difference, within which two scores are level.
NOISE_ERRORS = 2.0
#: A finetune did harm if it raised KL or perplexity to more than this many times what it was, or accuracy fell as much.
HARM_FACTOR = 1.02
#: Least rise of the KL, in nats, that is called harm.
HARM_NATS = 0.001
#: A teacher is no better than always the commonest class, up to so many of its standard errors.
CHANCE_ERRORS = 2.0
#: Largest share of a teacher that is called nothing.
NO_SHARE = 0.0
#: Labels below which an accuracy says little: the standard error is up to 5 points.
FEW_LABELS = 100
#: Classes of the calibration samples, below which they are called alike.
FEW_CLASSES = 2
#: Calibration tokens per coordinate of the teachers' residual stream, below which a student is visibly worse: the
#: variance of a least-squares fit grows as coordinates over tokens.  Measured on the built-in teachers, 64 wide: with
#: 4, 8, 17 and 136 tokens a coordinate a student of width 0.5 is right in 82, 94, 96 and 96 % of samples, one of
#: width 0.25 in 38, 31, 88 and 94 %.
ENOUGH_TOKENS = 16


def findings(report: Mapping[str, Any]) -> list[str]:
    """A warning for everything in a report that went wrong."""
    return [line for check in CHECKS for line in check(report)]


def remarks(report: Mapping[str, Any]) -> list[str]:
    """A note for every choice of a run that users may not expect."""
    return list(_unused_teachers(report))


def is_within_noise(first: Mapping[str, Any], second: Mapping[str, Any], metric: str) -> bool:
    """Whether two rows' scores differ by less than `NOISE_ERRORS` standard errors, as if of other samples."""
    errors = [error for row in (first, second) if (error := row.get(f"{metric}_error")) is not None]
    return len(errors) == 2 and abs(first[metric] - second[metric]) <= NOISE_ERRORS * math.hypot(*errors)


def _poor_finetune(report: Mapping[str, Any]) -> Iterator[str]:
    """The finetune changed nothing, or for the worse."""
    if not (finetune := report.get("finetune")):
        return
    before, after = report["table"][-2:]
    if finetune.get("best_step") == 0:
        yield (
            f"the finetune did not help: kept the {before['name']} weights, the best of {len(finetune['judged'])} "
            "evaluations on held-out training samples; try more --steps or --learning-rate search"
        )
        return
    if worse := _worsening(before, after, labels=report["recipe"]["finetune"]["label_weight"] > 0):
        yield (
            f"{worse}: try more --steps or --learning-rate search, or keep the {before['name']} student (--no-finetune)"
        )


def _worsening(before: Mapping[str, Any], after: Mapping[str, Any], labels: bool) -> str | None:
    """How much worse the finetune made the student, by what it was to improve."""
    if not labels:
        if before["kl"] is None or after["kl"] <= max(HARM_FACTOR * before["kl"], before["kl"] + HARM_NATS):
            return None
        return (
            f"the finetune took the student further from the ensemble (KL {format_kl(before['kl'])} before, "
            f"{format_kl(after['kl'])} now, worse by {after['kl'] - before['kl']:.3f} nats"
            f"{_noise(before, after, 'kl')})"
        )
    metric = main_metric(before, after)
    if metric is None:
        return None
    values = [row[metric.name] for row in (before, after)]
    # A rank correlation may be negative.
    if metric.best(values) == values[1] or max(map(abs, values)) <= HARM_FACTOR * min(map(abs, values)):
        return None
    figures = [metric.format(value) for value in values]
    change = abs(values[1] - values[0])
    worse = f"{100 * change:.1f} points" if metric.percent else f"{change:.{3 if not metric.lower else 2}f}"
    worse += _noise(before, after, metric.name)
    return f"the finetune made the student worse ({metric.title} {figures[0]} before, {figures[1]} now, by {worse})"


def _noise(first: Mapping[str, Any], second: Mapping[str, Any], metric: str) -> str:
    return ", within noise" if is_within_noise(first, second, metric) else ""


def _teachers_at_chance(report: Mapping[str, Any]) -> Iterator[str]:
    """Teachers that are no better than always the commonest class."""
    majority = (report.get("evaluation") or {}).get("majority")
    if majority is None:
        return
    for row in _teachers(report):
        if row["accuracy"] <= majority + CHANCE_ERRORS * row["accuracy_error"]:
            score = format_accuracy(row["accuracy"], row["accuracy_error"])
            yield (
                f"the teacher {row['name']} is right in {score} of the evaluation samples, and always the commonest "
                f"class in {format_accuracy(majority)}: check that its classes, preprocessing and data fit, or leave "
                "it out"
            )


def _unused_teachers(report: Mapping[str, Any]) -> Iterator[str]:
    """Teachers of whom nothing was taken."""
    choices = (report.get("fusion") or {}).get("choices") or {}
    shares, weights = choices.get("shares") or {}, choices.get("weights") or {}
    for name, share in shares.items():
        if share > NO_SHARE:
            continue
        if weights.get(name) == 0:
            yield f"of the teacher {name} nothing was taken: its share and its weight are 0; leave it out to save time"
        else:
            others = " and ".join(other for other, taken in shares.items() if taken)
            yield (
                f"of the teacher {name} no weights were taken (share 0): with those of {others} alone the student came "
                "nearest to the ensemble, in whose predictions it still counts"
            )


def _few_labels(report: Mapping[str, Any]) -> Iterator[str]:
    """Too few labels to tell models apart."""
    evaluation = report.get("evaluation") or {}
    labels, accuracy = evaluation.get("labelled") or 0, report["table"][-1].get("accuracy")
    if accuracy is not None and 0 < labels < FEW_LABELS:
        yield (
            f"few evaluation samples: accuracies are of {labels} labels, and the standard error is up to "
            f"{50 / math.sqrt(labels):.0f} points; give more (--eval-samples, --eval-split)"
        )


def _teachers(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The teachers' rows."""
    rows: Sequence[Mapping[str, Any]] = report["table"][: len(report["recipe"]["teachers"])]
    return [row for row in rows if row.get("accuracy") is not None and row.get("accuracy_error") is not None]


#: Each yields warnings about a report.
CHECKS: tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...] = (
    _poor_finetune,
    _teachers_at_chance,
    _few_labels,
)

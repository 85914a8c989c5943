"""The outcome of a run: the student's score, size and speed against the teachers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.bench.metrics import Metric, main_metric
from compressor.report.describe import Report
from compressor.report.findings import is_within_noise

#: {key of a row's latency: name of the backend}.
BACKEND_NAMES = {"torch": "torch", "ort": "ONNX Runtime"}


@dataclass(frozen=True)
class Outcome:
    """A student and those that it is compared with, rows of a report's table.

    Attributes:
        largest: the teacher with the most parameters; sizes and times are compared with its.
        best: the teacher with the best score, and `best_name`, such as "the better teacher".
        metric: of that score; None without one.
        speeds: {backend: times as fast as the largest teacher}, where both were timed.
    """

    student: Report
    largest: Report
    best: Report
    best_name: str
    metric: Metric | None
    speeds: Mapping[str, float]

    @classmethod
    def from_report(cls, report: Report) -> Outcome:
        """The outcome of a whole run."""
        teachers: Sequence[Report] = report["table"][: len(report["recipe"]["teachers"])]
        student = report["table"][-1]
        largest = max(teachers, key=lambda row: row["parameters"])
        metric = main_metric(student, *teachers)
        return cls(
            student=student,
            largest=largest,
            best=largest if metric is None else metric.best(teachers, key=lambda row: row[metric.name]),
            best_name={1: "the teacher", 2: "the better teacher"}.get(len(teachers), "the best teacher"),
            metric=metric,
            speeds={
                backend: largest[f"{backend}_p50_ms"] / student[f"{backend}_p50_ms"]
                for backend in BACKEND_NAMES
                if student[f"{backend}_p50_ms"] and largest[f"{backend}_p50_ms"]
            },
        )

    def share(self, key: str) -> float:
        """The student's size, such as `parameters`, as a share of the largest teacher's."""
        return self.student[key] / self.largest[key]

    @property
    def within_noise(self) -> bool:
        """Whether score and best teacher's differ by less than noise."""
        return self.metric is not None and is_within_noise(self.student, self.best, self.metric.name)


def describe_outcome(report: Report) -> str:
    """Size, score and speed."""
    outcome = Outcome.from_report(report)
    parameters = f"{outcome.student['parameters'] / 1e6:.3g} M parameters"
    speeds = [
        f"{ratio:.1f} times {'' if index else 'as fast as a teacher '}in {BACKEND_NAMES[backend]}"
        for index, (backend, ratio) in enumerate(outcome.speeds.items())
    ]
    parts = [
        f"{parameters} ({outcome.share('parameters'):.0%} of a teacher's)",
        *([] if outcome.metric is None else [_describe_score(outcome, outcome.metric)]),
        *([" and ".join(speeds)] if speeds else []),
    ]
    return f"student ({outcome.student['name']}): {', '.join(parts)}"


def _describe_score(outcome: Outcome, metric: Metric) -> str:
    """The student's score, compared with its best teacher's."""
    mine, best, name = outcome.student[metric.name], outcome.best[metric.name], outcome.best_name
    figure = metric.format(mine, outcome.student.get(f"{metric.name}_error"))
    score = f"{figure} {metric.title}" if metric.percent else f"{metric.title} {figure}"
    if best <= 0:
        ratio = f"{name} has {metric.format(best)}"
    elif metric.lower:
        ratio = f"{mine / best:.3g} times {name}'s; lower is better"
    else:
        ratio = f"{mine / best:.1%} of {name}'s"
    return f"{score} (level with {name}, within noise: {ratio})" if outcome.within_noise else f"{score} ({ratio})"

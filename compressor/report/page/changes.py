"""What changed between ensemble and student: groups and agreement."""

from __future__ import annotations

import math

from compressor.bench.metrics import METRICS, Metric, format_accuracy
from compressor.report.describe import Report
from compressor.report.page.charts import AxisScale, row_colour

#: Most rows of a chart, as many worst as best; tables have all groups.
_SHOWN_GROUPS = 16
#: {kind of group: what its rows are}.
_KINDS = {
    "class": "class",
    "domain": "domain",
    "position": "position in the text, in tokens",
    "length": "length of the text, in tokens",
}


def metric_of(differences: Report) -> Metric:
    """What the scores of groups are; without labels, the share of answers that are also the ensemble's."""
    name = differences["metric"]
    return METRICS.get(name) or Metric(name, name, format_accuracy, percent=True)


def group_rows(differences: Report, group: Report) -> list[tuple[str, ...]]:
    """Rows of the table of all groups."""
    score = metric_of(differences).format
    return [(row["name"], row["count"], *map(score, row["scores"])) for row in group["rows"]]


def group_chart(report: Report, group: Report) -> Report:
    """A row per group; of many, the worst and the best; nothing without scores."""
    metric, models, teachers = (
        metric_of(report["differences"]),
        report["differences"]["models"],
        len(report["recipe"]["teachers"]),
    )
    student, reference = len(models) - 1, teachers if teachers > 1 and models[teachers] == "ensemble" else 0
    caption = f"By {_KINDS[group['by']]}: {metric.label}"
    rows = [row for row in group["rows"] if None not in row["scores"]]
    if len(rows) > _SHOWN_GROUPS:
        rows = sorted(rows, key=lambda row: row["scores"][student] - row["scores"][reference])
        rows = rows[: _SHOWN_GROUPS // 2] + rows[-_SHOWN_GROUPS // 2 :]
        caption += f"; {_SHOWN_GROUPS // 2} groups with the largest loss, {_SHOWN_GROUPS // 2} with the largest gain"
    # The reference and the student come last, and are joined.
    order = sorted(range(len(models)), key=[reference, student].__contains__)
    key = [(models[index], *row_colour(report, index)) for index in order]
    drawn = [
        (row["name"], [(row["scores"][index], *row_colour(report, index)) for index in order])
        for row in rows
        if all(map(math.isfinite, row["scores"]))
    ]
    if not drawn:
        return {}
    values = [score for _, points in drawn for score, *_ in points]
    scale = AxisScale.over("", values, margin=0.06, percent=metric.percent)
    return {"rows": drawn, "scale": scale, "key": key, "caption": caption}

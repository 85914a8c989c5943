"""What changed between ensemble and student: groups, agreement, samples."""

from __future__ import annotations

from compressor.bench.metrics import METRICS, MISSING, format_perplexity
from compressor.report.describe import Report
from compressor.report.page.charts import DotRows, dot_rows, row_colour
from compressor.report.page.elements import Card, Cards, Element, Group, PageTable, Text

#: Most rows of a chart, as many worst as best; tables have all groups.
_SHOWN_GROUPS = 16
#: {kind of group: what its rows are}.
_KINDS = {
    "class": "class",
    "domain": "domain",
    "position": "position in the text, in tokens",
    "length": "length of the text, in tokens",
}
_SAMPLES_NOTE = (
    "Those with the largest KL from the ensemble. They are copies of the evaluation data, in this page and in "
    "report.json alone; --push-to-hub leaves them out."
)


def changes_section(report: Report) -> list[Element]:
    """Charts and tables by group, and samples; nothing if they were not measured."""
    if not (differences := report.get("differences")):
        return []
    charts: list[Element] = [chart for group in differences["groups"] for chart in _chart(report, group)]
    tables = [_table(differences, group) for group in differences["groups"]]
    return [_agreement(report), Group("columns", charts), *_samples(differences), *tables]


def _samples(differences: Report) -> list[Element]:
    if differences["samples"]:
        title = Text("Samples that the student answers otherwise", "heading")
        cards = [_sample(sample, differences["models"][-1]) for sample in differences["samples"]]
        return [title, Cards(cards), Text(_SAMPLES_NOTE)]
    if differences["agreement"][-1] == 1:
        return ["The student answers no sample otherwise."]
    return ["The samples that the student answers otherwise are not part of an upload."]


def _agreement(report: Report) -> str:
    differences = report["differences"]
    pairs = list(zip(differences["models"], differences["agreement"], strict=True))
    if len(report["recipe"]["teachers"]) == 1:
        return f"Answers that are also the teacher’s: {100 * pairs[-1][1]:.1f} %."
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in pairs if name != "ensemble")
    return f"Answers that are also the ensemble’s: {shares}."


def _chart(report: Report, group: Report) -> list[DotRows]:
    """A row per group; of many, the worst and the best."""
    differences, reference = report["differences"], _reference(report)
    metric = differences["metric"]
    caption = f"By {_KINDS[group['by']]}: {METRICS[metric].label if metric in METRICS else metric}"
    rows = [row for row in group["rows"] if None not in row["scores"]]
    if len(rows) > _SHOWN_GROUPS:
        rows = sorted(rows, key=lambda row: row["scores"][-1] - row["scores"][reference])
        rows = rows[: _SHOWN_GROUPS // 2] + rows[-_SHOWN_GROUPS // 2 :]
        caption += f"; {_SHOWN_GROUPS // 2} groups with the largest loss, {_SHOWN_GROUPS // 2} with the largest gain"
    # The reference and the student come last, and are joined.
    last = len(differences["models"]) - 1
    order = [index for index in range(last) if index != reference] + [reference, last]
    scores = [(row["name"], [row["scores"][index] for index in order]) for row in rows]
    key = [(differences["models"][index], *row_colour(report, index)) for index in order]
    return dot_rows(scores, key, caption, percent=metric != "perplexity")


def _reference(report: Report) -> int:
    """The index of the ensemble, or of the only teacher."""
    names, teachers = report["differences"]["models"], len(report["recipe"]["teachers"])
    return teachers if teachers > 1 and names[teachers] == "ensemble" else 0


def _table(differences: Report, group: Report) -> Group:
    def cell(score: float | None) -> str:
        if score is None:
            return MISSING
        return format_perplexity(score) if differences["metric"] == "perplexity" else f"{100 * score:.1f} %"

    rows = [(row["name"], row["count"], *map(cell, row["scores"])) for row in group["rows"]]
    table = PageTable((group["by"], "answers", *differences["models"]), rows)
    return Group("details", [table], f"all {len(rows)} groups by {group['by']} in figures")


def _sample(sample: Report, student: str) -> Card:
    """A sample with the answers of the label if known, the ensemble, the student."""
    answers = [] if sample["label"] is None else [("label", _visible_answer(sample["label"]))]
    for key, name in (("ensemble", "ensemble"), ("student", student)):
        answer, probability = _visible_answer(sample[key]["answer"]), 100 * sample[key]["probability"]
        answers.append((name, f"{answer} {probability:.0f}\N{NO-BREAK SPACE}%"))
    return Card(
        answers,
        picture=sample["picture"],
        description=f"sample {sample['sample']}",
        quote=sample["text"],
        token=sample["token"],
    )


def _visible_answer(answer: str) -> str:
    """A class, or a token, which may be white space."""
    return answer.replace("\n", "⏎").strip() or "␣"

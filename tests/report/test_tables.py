"""Tables of a terminal of 80 columns: names are cut in the middle, figures never, and a row is a line."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from compressor.bench.compare import compare_results, with_ratios
from compressor.report.describe import describe_comparison
from compressor.report.tables import comparison_table, latency_table, score_table

LONG = ["a-teacher-with-a-very-long-name-of-a-folder-1", "a-teacher-with-a-very-long-name-of-a-folder-2"]


def lines_of(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return [line.rstrip() for line in lines if line.strip(" ─")]


def timed(name, p50=100.0, spread=5.0):
    times = {f"p{share}_ms": p50 + share for share in (90, 95, 99)}
    return {
        "model": name, "backend": "torch-compile", "batch_size": 32, "length": 128, "p50_ms": p50, **times,
        "first_call_ms": 1234.0, "load_ms": 1500.0, "peak_memory_bytes": 1e9, "p50_low_ms": p50 - spread,
        "p50_high_ms": p50 + spread,
    }  # fmt: skip


def test_long_names_in_every_table():
    scores = {"accuracy": 0.5, "accuracy_error": 0.01, "f1": 0.5, "perplexity": None}
    rows = [{"name": name, **scores, "samples": 9, "labelled": 9, "parameters": 2e6} for name in LONG]
    titles, *cells = lines_of(score_table(rows))
    assert "accuracy" in titles and len(cells) == 2 and all("50.0 ± 1.0 %" in line for line in cells)
    _, *cells = lines_of(latency_table([timed(name) for name in LONG]))
    assert len(cells) == 2 and all("1234" in line and "torch-compile" in line for line in cells)
    for line, name in zip(cells, LONG, strict=True):
        cut = line.split()[0]
        assert "…" in cut and name.startswith(cut.partition("…")[0]) and name.endswith(cut.partition("…")[2])


def test_the_ratio_of_several_models_stands_next_to_their_times():
    rows = with_ratios([timed("teacher"), timed("student", 40.0), {**timed("student"), "backend": "onnx"}])
    assert [row["times_first"] for row in rows] == [1.0, 2.5, None]
    assert rows[1]["samples_per_second"] == 800.0
    titles, *cells = lines_of(latency_table(rows), width=120)
    assert "× 1st" in titles and "2.50" in cells[1] and "–" in cells[2]
    assert "× 1st" not in lines_of(latency_table(with_ratios([timed("alone")])), width=120)[0]


def result(*rows):
    return {"results": list(rows), "environment": {}, "settings": {}}


@pytest.mark.parametrize(("other", "marked"), [(100.0, True), (108.0, True), (120.0, False)])
def test_what_is_within_the_spread_is_marked(other, marked):
    compared = compare_results(result(timed("a")), result(timed("a", other)))
    (_, line) = lines_of(comparison_table(compared["rows"]))
    assert ("≈" in line) is marked and f"{100 / other:.2f}" in line
    said = describe_comparison(compared, ("A.json", "B.json"))
    assert any(note.startswith("≈: within the spread") for note in said) is marked


def test_a_former_result_has_no_spread():
    former = {key: value for key, value in timed("a").items() if key not in ("p50_low_ms", "p50_high_ms")}
    compared = compare_results(result(former), result(timed("a")))
    assert compared["rows"][0]["within_spread"] is None
    assert "≈" not in " ".join(lines_of(comparison_table(compared["rows"])))
    assert any("measure it again" in note for note in describe_comparison(compared, ("A.json", "B.json")))

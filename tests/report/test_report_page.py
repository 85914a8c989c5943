"""The page of a run: report.html."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from command import compress, tiny_recipe

#: Elements that HTML does not close.
VOID = {"img", "meta"}


class Reader(HTMLParser):
    """Checks that elements are nested well, and gathers them."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def fused(tmp_path_factory, vit_a, vit_b, image_folder):
    """The folder and the report of a run with couplings of every kind: transport, and maps that are none."""
    from compressor.pipeline.run import run_recipe
    from compressor.recipe import build_recipe

    output = tmp_path_factory.mktemp("page") / "student <b>&"
    values = tiny_recipe([vit_a, vit_b], image_folder, output, fusion={"residual": "principal", "inner": "transport"})
    return output, run_recipe(build_recipe(values))


def test_it_is_one_file_that_asks_for_nothing(fused):
    output, _ = fused
    text = (output / "report.html").read_text()
    page = read(text)
    assert not page.all("script") and not page.all("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert not re.search(r"(?i)https?:|url\(|@import", text)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {"http-equiv": "Content-Security-Policy", "content": policy} in page.all("meta")
    ids = {attributes.get("id") for _, attributes in page.seen}
    assert {link["href"][1:] for link in page.all("a")} <= ids


def test_it_shows_what_was_measured_and_chosen(fused):
    _, report = fused
    page = read(fused[0].joinpath("report.html").read_text())
    text = " ".join(page.text)
    for row in report["table"]:
        assert row["name"] in page.text
        assert f"{100 * row['accuracy']:.1f} %" in text
    for one in report["fusion"]["candidates"]:
        assert f"{one['held_out_kl']:.4g}" in page.text
    for coupling in report["fusion"]["couplings"]:
        assert f"{coupling['entropy']:.3f}" in page.text
    for fit in report["fusion"]["fits"]:
        assert fit["module"] in page.text
    assert "compress run recipe.yaml --output again" in page.text
    assert report["teachers"][0]["fingerprint"][:16] in text
    # Score against cost, the finetune, and the refit.
    assert len(page.all("svg")) == 3


def test_every_plan_is_a_picture(fused):
    from PIL import Image

    from compressor.report.page.couplings import heat_map

    _, report = fused
    fusion = report["fusion"]
    page = read(fused[0].joinpath("report.html").read_text())
    assert len(page.all("img")) == len(fusion["couplings"]) + len(fusion["projections"])
    assert {one["space"] for one in fusion["projections"]} == {"residual"}
    assert {one["teacher"] for one in fusion["projections"]} == {one["name"] for one in report["teachers"]}
    sketched = fusion["projections"][0]["plan"]
    image = Image.open(io.BytesIO(base64.b64decode(heat_map(sketched).partition(",")[2])))
    assert image.size == (sketched["columns"], sketched["rows"]) == (16, 32)


def test_names_are_no_markup(fused):
    text = fused[0].joinpath("report.html").read_text()
    assert "student <b>" not in text
    assert "student &lt;b&gt;&amp;" in text


def test_it_can_be_written_anew_and_follows_the_report(fused, capsys):
    from compressor.pipeline.output import update_report

    output, _ = fused
    first = (output / "report.html").read_text()
    (output / "report.html").unlink()
    code, out, err = compress(capsys, "report", output, "--html")
    assert (code, err) == (0, "")
    assert out.strip() == f"wrote {output / 'report.html'}"
    assert (output / "report.html").read_text() == first
    update_report(output, {"notes": ["a new note"]})
    assert "a new note" in (output / "report.html").read_text()
    update_report(output, {"notes": []})
    assert (output / "report.html").read_text() == first


def test_it_can_be_written_for_a_report_without_a_fusion_and_with_numbers_that_are_none(fused):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    report["fusion"], report["target"] = None, None
    report["recipe"]["student"] = "wide/one"
    report["finetune"]["loss"] = [[1, float("nan")], [2, float("inf")]]
    for row in report["table"]:
        row.update(accuracy=None, perplexity=float("inf"), f1=None)
    page = read(render_page(report))
    assert not page.all("img")
    assert "one, finetuned" in page.text[0] or any("one, finetuned" in text for text in page.text)


def test_it_says_what_was_taken_from_each_teacher(fused):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    a, b = (teacher["name"] for teacher in report["teachers"])
    for one in report["fusion"]["couplings"]:
        one.update(solver="selection", target=8, empty_targets=2 if one["teacher"] == a else 6)
    count = len(report["fusion"]["couplings"]) // 2
    text = " ".join(read(render_page(report)).text)
    assert (
        f"{a.rpartition('/')[2]} {6 * count} of {8 * count}, {b.rpartition('/')[2]} {2 * count} of {8 * count}" in text
    )


@pytest.mark.parametrize(
    "where, told, short",
    [("held_out", "Held-out KL", "held-out KL"), ("random_inputs", "On random inputs KL", "KL on random inputs")],
)
def test_it_says_which_shapes_were_tried_and_how_the_head_was_fitted(fused, where, told, short):
    from compressor.report.page.page import render_page
    from compressor.report.summary import describe_choices

    report = json.loads((fused[0] / "report.json").read_text())
    made = report["fusion"]["choices"]
    best = f"{made['attention']}, {made['residual']}"
    made["shapes"] = [
        {"candidate": "3 heads of 8, x", f"{where}_kl": 0.123},
        {"candidate": best, f"{where}_kl": 0.0456},
    ]
    report["fusion"]["head"] = {"module": "classifier", "least_squares_kl": 0.00789, "kl": 0.00567}
    text = " ".join(read(render_page(report)).text)
    for said in ("3 heads of 8, x 0.123", "(chosen) 0.0456", told, "head classifier", "0.00567", "0.00789"):
        assert said in " ".join(text.split())
    lines = describe_choices(report)
    assert f"shapes: 3 heads of 8, x 0.123; {best} 0.0456 ({short})" in lines
    assert any(line.startswith("head: classifier") and "0.00567, 0.00789 by" in line for line in lines)
    assert not any("{" in line for line in lines)


def test_formats_are_on_the_page(fused):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    whole = {"bytes": 3_340_000, "relative_error": 4e-7, "agreement": 1.0, "evaluation": None}
    data = {"accuracy": 0.6166, "perplexity": None, "agreement": 0.9718, "relative_error": 0.0404}
    small = whole | {"bytes": 1_350_000, "evaluation": data | {"float": {"accuracy": 0.6158, "perplexity": None}}}
    report["formats"] = {"onnx": whole | {"files": {"onnx/model.onnx": {}}}}
    assert "same predictions" not in read(render_page(report)).text
    report["formats"]["onnx-int8"] = small | {"files": {"onnx/model_int8.onnx": {}}}
    page = read(render_page(report))
    for said in ("same predictions", "3.34 MB", "1.35 MB", "4.0e-07", "4.0e-02", "97.18 %", "61.66 %", "61.58 %"):
        assert said in page.text
    assert "files" not in page.text and {"href": "#formats"} in page.all("a")


def test_the_terminal_says_what_the_page_says(fused):
    from compressor.report.summary import describe_choices

    report = json.loads((fused[0] / "report.json").read_text())
    made = {"exact": False, "relative_error": 0.04, "agreement": 1.0, "evaluation": None}
    lines = describe_choices(report | {"formats": {"onnx-int8": made}})
    assert (
        "onnx-int8: relative error of the logits 4.0e-02, 100.00 % of the predictions are torch's, on random inputs"
        in lines
    )
    assert "refit: yes" in lines


def test_words_wrap_where_figures_would_be_out_of_sight(fused):
    page = read(fused[0].joinpath("report.html").read_text())
    # Weights, versions and proofs: their last columns are what they are for.
    assert [one.get("class") for one in page.all("table")].count("words") == 3


def test_it_says_whose_weights_were_kept(fused):
    from compressor.report.page.page import render_page
    from compressor.report.summary import summary_lines

    report = json.loads((fused[0] / "report.json").read_text())
    report["finetune"].update(judged=[[0, 0.25], [2, 0.5]], best_step=0, validation_samples=9)
    told = "eights of step 0, the best of 2 evaluations (loss 0.2500 on 9 held-out training samples)"
    assert f"W{told}" in " ".join(read(render_page(report)).text)
    assert f"w{told}" in summary_lines(report)


def test_bad_folders_get_one_line(tmp_path, capsys):
    (tmp_path / "report.json").write_text('{"table": []}')
    code, out, err = compress(capsys, "report", tmp_path, "--html")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "is not the report of a whole run" in err
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert compress(capsys, "report", tmp_path, "--html", "--json")[0] == 2


def test_names_in_a_chart_do_not_lie_on_each_other():
    from compressor.report.page.charts import ChartPoint, scatter_chart

    points = [ChartPoint(f"model {index}", 1.0 + index / 1000, 0.5 + index / 1e4) for index in range(6)]
    drawn = str(scatter_chart([*points, ChartPoint("far", 9.0, 0.9)], "cost", "accuracy", percent=True))
    heights = sorted(float(re.search(r' y="([\d.]+)"', text)[1]) for text in re.findall(r"<text[^>]*>model \d", drawn))
    assert len(heights) == 6
    assert all(after - before >= 12.9 for before, after in pairwise(heights))
    assert heights[-1] <= 250 and heights[0] >= 10


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.331, 0.334), (3e-7, 5e2), (1200.0, 9000.0), (-2.0, 3.0)])
@pytest.mark.parametrize("log", [True, False])
def test_axes_have_a_few_round_ticks_inside(low, high, log):
    from compressor.report.page.charts import AxisScale

    scale = AxisScale.over("x", [low, high], log=log)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(-1e-9 <= scale.share(tick) <= 1 + 1e-9 for tick in ticks)


def test_one_value_is_an_axis_too():
    from compressor.report.page.charts import AxisScale

    for value in (0.0, 5.0, 1e-9):
        scale = AxisScale.over("x", [value])
        assert 0 < scale.share(value) < 1
        assert scale.ticks()

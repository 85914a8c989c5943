"""The page of a run: report.html."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

import pytest
from command import compress, tiny_recipe

from compressor.report.describe import measure_of
from compressor.report.templates import render_template

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
        # Elements of SVG may close themselves.
        assert tag in VOID or "svg" in self.open
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
    from compressor.pipeline.run.run import run_recipe
    from compressor.recipe import build_recipe

    output = tmp_path_factory.mktemp("page") / "student <b>&"
    values = tiny_recipe([vit_a, vit_b], image_folder, output, fusion={"residual": "principal", "inner": "transport"},
                         bench={"latency": True}, export={"onnx": True, "formats": ["onnx", "onnx-int8"]})  # fmt: skip
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
    candidates = report["fusion"]["candidates"]
    for one in candidates:
        assert f"{one[measure_of(candidates)]:.4g}" in page.text
    for coupling in report["fusion"]["couplings"]:
        assert f"{coupling['entropy']:.3f}" in page.text
    for fit in report["fusion"]["fits"]:
        assert fit["module"] in page.text
    assert "compress run recipe.yaml --output again" in page.text
    assert report["teachers"][0]["fingerprint"][:16] in text
    # Score against latency or cost, and against size, shapes, the finetune, and the refit; classes, and who gave what.
    assert len(page.all("svg")) == 5
    classes = [attributes.get("class") for attributes in page.all("div")]
    assert classes.count("dots") == 1 and classes.count("shares") == 2
    for row in report["differences"]["groups"][0]["rows"]:
        assert row["name"] in page.text


def test_every_plan_is_a_picture(fused):
    from PIL import Image

    from compressor.report.page.fusion import heat_map

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
    from compressor.pipeline.output.documents import update_report

    output, _ = fused
    first = (output / "report.html").read_text()
    (output / "report.html").unlink()
    code, out, err = compress(capsys, "report", output, "--html")
    assert (code, err) == (0, "")
    assert out.strip() == f"wrote {output / 'report.html'}"
    assert (output / "report.html").read_text() == first
    # What is there stays, unless it is to be replaced.
    (output / "report.html").write_text("mine")
    code, out, err = compress(capsys, "report", output, "--html")
    assert (code, err) == (0, "") and out.startswith(f"left {output / 'report.html'}, which is there already")
    assert (output / "report.html").read_text() == "mine"
    assert compress(capsys, "report", output, "--force")[0] == 2
    code, out, err = compress(capsys, "report", output, "--html", "--force")
    assert (code, out.strip(), err) == (0, f"wrote {output / 'report.html'}", "")
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
    from compressor.report.choices import teacher_names, with_names
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
    named = with_names(best, teacher_names(report))
    assert f"shapes tried: 3 heads of 8, x 0.123; {named} 0.0456 ({short})" in lines
    assert any(line.startswith("head: classifier") and "0.00567, 0.00789 by" in line for line in lines)
    assert not any("{" in line for line in lines)


@pytest.mark.parametrize("times, drawn", [((1.3, 1.3, 1.0), True), ((None, None, None), False)])
def test_shapes_are_drawn_by_time_and_error(fused, times, drawn):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    labels = ("3 heads of 8, x", "3 heads of 8, y", "1 heads of 24, x")
    report["fusion"]["choices"]["shapes"] = [
        {"candidate": label, "held_out_kl": error, **({} if time is None else {"relative_time": time})}
        for label, error, time in zip(labels, (0.5, 0.25, 0.75), times, strict=True)
    ]
    page = render_page(report)
    # Each shape once, with its best maps.
    assert ("3 heads of 8: 1.3, 0.25; 1 heads of 24: 1, 0.75" in page) is drawn


def test_formats_are_on_the_page(fused):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    whole = {"bytes": 3_340_000, "relative_error": 4e-7, "agreement": 1.0, "evaluation": None}
    data = {"accuracy": 0.6166, "perplexity": None, "agreement": 0.9718, "relative_error": 0.0404}
    small = whole | {"bytes": 1_350_000, "evaluation": data | {"float": {"accuracy": 0.6158, "perplexity": None}}}
    report["formats"] = {"onnx": whole | {"files": {"onnx/model.onnx": {}}}}
    assert "same predictions" not in read(render_page(report)).text
    report["formats"]["onnx-int8"] = small | {"files": {"onnx/model_quantized.onnx": {}}}
    page = read(render_page(report))
    for said in ("same predictions", "3.34 MB", "1.35 MB", "4.0e-07", "4.0e-02", "97.18 %", "61.66 %", "61.58 %"):
        assert said in page.text
    assert "files" not in page.text and {"href": "#formats"} in page.all("a")


def test_the_terminal_says_what_the_page_says(fused):
    from compressor.report.choices import choices_of
    from compressor.report.summary import describe_choices

    report = json.loads((fused[0] / "report.json").read_text())
    made = {"exact": False, "relative_error": 0.04, "agreement": 1.0, "evaluation": None}
    lines = describe_choices(report | {"formats": {"onnx-int8": made}})
    assert (
        "onnx-int8: relative error of the logits 4.0e-02, 100.00 % of the predictions are torch's, on random inputs"
        in lines
    )
    # One list of choices, in the same words.
    text = " ".join(" ".join(read(fused[0].joinpath("report.html").read_text()).text).split())
    for choice in choices_of(report):
        assert str(choice) in lines and f"{choice.name} {choice.value} {choice.reason}".strip() in text
    assert any(line.startswith("refit: ridge λ") for line in lines)


def test_words_wrap_where_figures_would_be_out_of_sight(fused):
    page = read(fused[0].joinpath("report.html").read_text())
    # Weights, versions and proofs: their last columns are what they are for.
    assert [one.get("class") for one in page.all("table")].count("words pairs") == 2
    assert [one.get("class") for one in page.all("table")].count("words") == 1


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


def drawn(chart):
    """A chart's picture."""
    return ElementTree.fromstring(render_template("compressor.report.page", "chart.svg.j2", chart=chart))


def boxes(picture, tag):
    """(text, its box) of all texts or circles; widths of texts as the charts reckon them."""
    found = []
    for mark in picture.iter(tag):
        if tag == "text":
            width = 5.9 * len(mark.text)
            left = float(mark.get("x")) - {"start": 0, "middle": width / 2, "end": width}[mark.get("text-anchor")]
            found.append((mark.text, left, float(mark.get("y")) - 9, left + width, float(mark.get("y")) + 2))
        else:
            x, y, r = (float(mark.get(name)) for name in ("cx", "cy", "r"))
            found.append(("dot", x - r, y - r, x + r, y + r))
    return found


def apart(one, other):
    return one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]


def test_every_format_is_in_the_charts_of_latency_and_size(fused):
    from compressor.bench.metrics import main_metric
    from compressor.report.page.results import cost_charts

    _, report = fused
    rows = {row["name"] for row in report["table"]}
    assert set(report["latency"]["models"]) == {*rows, "finetuned (onnx-int8)"}
    charts = cost_charts(report, main_metric(*report["table"]))
    assert ["ms per batch" in charts[0].x.title, "MB" in charts[1].x.title] == [True, True]
    for chart in charts:
        named = {mark.text for mark in drawn(chart).iter("text") if mark.get("class") == "name"}
        assert named >= {*rows, "onnx-int8"}


@pytest.mark.parametrize("count", [1, 2, 6, 12])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 13.0])
def test_names_in_a_chart_lie_on_nothing(count, spread):
    from compressor.report.page.charts import Series, make_chart

    chance = random.Random(count)
    points = [
        Series(
            f"a rather long name {index}",
            "--accent",
            [(3 + 90 * spread * chance.random(), 0.5 + 0.4 * min(spread, 1) * chance.random())],
            error=0.02,
        )
        for index in range(count)
    ]
    chart = make_chart(points, "milliseconds", "accuracy", of_costs=True, percent=True)
    picture = drawn(chart)
    texts, dots = boxes(picture, "text"), boxes(picture, "circle")
    assert len(dots) == count and sum("…" in text[0] for text in texts) == count
    # Shortened names are still different ones.
    assert len({text[0] for text in texts if "…" in text[0]}) == count
    for one, other in combinations(texts, 2):
        assert apart(one, other), (one, other)
    for text in texts:
        assert all(apart(text, dot) for dot in dots)
        assert text[1] >= 0 and text[3] <= 360 and text[2] >= 0 and text[4] <= 250


@pytest.mark.parametrize("by", ["class", "domain", "position", "length"])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_groups_have_rows_of_their_own_and_of_many_the_extremes_are_drawn(fused, count, by):
    from compressor.report.page.page import render_page
    from compressor.report.page.results import group_chart

    report = json.loads((fused[0] / "report.json").read_text())
    models = report["differences"]["models"]
    rows = [
        {"name": f"class {index}", "count": 3, "scores": [0.5] * (len(models) - 1) + [index / count]}
        for index in range(count)
    ]
    report["differences"]["groups"] = [{"by": by, "rows": rows}]
    chart = group_chart(report, report["differences"]["groups"][0])
    names = [name for name, _ in chart["rows"]]
    assert len(names) == min(count, 16)
    assert {"class 0", f"class {count - 1}"} <= set(names)
    scale = chart["scale"]
    assert all(0 <= scale.at(score) <= 100 for _, scores in chart["rows"] for score in scores)
    ticks = [scale.format(tick) for tick in scale.ticks()]
    assert len(set(ticks)) == len(ticks) >= 2
    text = render_page(report)
    assert text.count('<th scope="row">class ') == count and f"all {count} groups by {by} in figures" in text


def verdict_of(report):
    """The sentence below the title of a report's page."""
    from compressor.report.page.page import render_page

    sentence = re.search('<p class="verdict">(.*?)</p>', render_page(report), re.DOTALL)[1]
    return " ".join(sentence.split())


@pytest.mark.parametrize("student, level", [(0.62, "is level with"), (0.9, "is ahead of"), (0.3, "falls behind")])
def test_the_verdict_is_one_sentence_and_knows_noise(fused, student, level):
    report = json.loads((fused[0] / "report.json").read_text())
    for row, accuracy in zip(report["table"], (0.6, 0.61, 0.63, 0.5, student), strict=True):
        row.update(accuracy=accuracy, accuracy_error=0.02)
    told = verdict_of(report)
    assert level in told and "the better teacher" in told and f"{100 * student:.1f} % against 61.0 %" in told
    assert told.count(". ") == 0 and told.endswith(".") and ("noise" in told) == (student == 0.62)
    for row in report["table"]:
        row.update(accuracy=None, perplexity=20.0, perplexity_error=1.0)
    report["table"][-1]["perplexity"] = 40 - 32 * student
    assert (level in verdict_of(report)) and ("noise" in verdict_of(report)) == (student == 0.62)
    for row in report["table"]:
        row["perplexity"] = None
    assert "not measured" in verdict_of(report)


@pytest.mark.parametrize("errors", [0.5, 1.5, 2.5])
@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_page_and_terminal_agree_on_what_is_noise(fused, metric, errors):
    from compressor.report.outcome import describe_outcome

    report = json.loads((fused[0] / "report.json").read_text())
    for row in report["table"]:
        row.update({"accuracy": None, "perplexity": None, metric: 0.5, f"{metric}_error": 0.01})
    # The error of a difference is larger by the square root of two.
    report["table"][-1][metric] += errors * 0.01 * 2**0.5
    for told in (verdict_of(report), describe_outcome(report)):
        assert ("within noise" in told) == ("level with" in told) == (errors < 2), told


def test_alike_couplings_are_shown_once_and_closed(fused):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    fusion = report["fusion"]
    fusion["projections"] = []
    spaces = list(dict.fromkeys(one["space"] for one in fusion["couplings"]))
    first = [one for one in fusion["couplings"] if one["space"] == spaces[0]]
    fusion["couplings"] = [{**one, "space": space} for space in spaces for one in first]
    page = read(text := render_page(report))
    assert ", ".join(spaces) in page.text
    assert len(page.all("img")) == len(first)
    section = text[text.index('id="couplings"') : text.index('id="refit"')]
    assert section.index("<details>") < section.index("<img") < section.index("</details>")


def test_shares_of_teachers_are_those_of_the_couplings(fused):
    from compressor.report.page.fusion import source_stacks
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    a, b = (teacher["name"] for teacher in report["teachers"])
    fusion = report["fusion"]
    fusion["choices"]["shares"] = {a: 0.25, b: 0.75}
    for one in fusion["couplings"]:
        if one["space"].endswith("ffn"):
            one.update(solver="selection", target=8, empty_targets=2 if one["teacher"] == a else 6)
    stacks, taken = source_stacks([*fusion["projections"], *fusion["couplings"]], fusion["choices"])
    assert {stack: list(layers) for stack, layers in stacks.items()} == {"": ["residual"], "vit.layers": [0, 1]}
    assert taken == {a: 12, b: 4}
    for layers in stacks.values():
        for part, bars in ((part, bars) for parts in layers.values() for part, bars in parts.items()):
            shares = {teacher: share for teacher, share, _ in bars}
            assert shares == ({a: 0.75, b: 0.25} if part == "ffn" else {a: 0.25, b: 0.75})
            assert {teacher: count for teacher, _, count in bars if count} == ({a: 6, b: 2} if part == "ffn" else {})
    text = render_page(report)
    section = text[text.index('id="sources"') : text.index('id="choices"')]
    titles = re.findall("<span>([^<]+)</span>", section)
    assert titles == ["residual: the whole stream", "1", "0"]
    widths = [re.findall(r"<i style=\"width:(.+?)%", bars) for bars in re.findall("<div>(<i .*?)</div>", section)]
    assert len(widths) == sum(len(parts) for layers in stacks.values() for parts in layers.values())
    assert all(sum(map(float, row)) == pytest.approx(100) and len(row) == 2 for row in widths)


def test_samples_and_names_of_classes_are_no_markup(fused):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    hostile = "<script>alert(1)</script>{{ 7 * 7 }}{% raw %}"
    report["differences"]["groups"][0]["rows"][0]["name"] = hostile
    answer = {"answer": hostile, "probability": 0.5}
    picture = "data:image/png;base64,AAAA"
    texts = {"text": hostile, "token": "\n", "picture": None}
    report["differences"]["samples"] = [
        {"sample": 1, "label": hostile, "ensemble": answer, "student": answer, "kl": 1.0, **shown}
        for shown in ({"text": None, "token": None, "picture": picture}, texts)
    ]
    page = read(text := render_page(report))
    assert not page.all("script") and "{{ 7 * 7 }}" in " ".join(page.text) and "<script>" not in text
    assert {"src": picture, "alt": "sample 1"} in page.all("img")
    assert "--push-to-hub leaves them out" in " ".join(page.text)


def test_rows_are_cards_on_a_phone(fused):
    text = fused[0].joinpath("report.html").read_text()
    page = read(text)
    # Where the titles are hidden, every cell says its own.
    assert "content: attr(data-title)" in text
    titles = [attributes.get("data-title") for attributes in page.all("td")]
    assert titles and all(titles)


@pytest.mark.parametrize(
    "low, high",
    [(0.0, 1.0), (0.331, 0.334), (1.0101, 1.0119), (0.99991, 0.99999), (3e-7, 5e2), (1200.0, 9000.0), (-2.0, 3.0)],
)
@pytest.mark.parametrize("log", [True, False])
def test_axes_have_a_few_round_ticks_inside(low, high, log):
    from compressor.report.page.charts import AxisScale

    scale = AxisScale.over([low, high], log=log)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(-1e-7 <= scale.at(tick) <= 100 + 1e-7 for tick in ticks)
    assert len({scale.format(tick) for tick in ticks}) == len(ticks)


def test_one_value_is_an_axis_too():
    from compressor.report.page.charts import AxisScale

    for value in (0.0, 5.0, 1e-9):
        scale = AxisScale.over([value])
        assert 0 < scale.at(value) < 100
        assert scale.ticks()


@pytest.mark.parametrize(
    "keys", [["seconds"], ["student"], ["finetune", "learning_rate"], ["table", 0, "macs"], ["recipe", "width"]]
)
def test_what_a_whole_run_would_have_is_missed_by_name(fused, keys):
    from compressor.report.page.page import render_page

    report = json.loads((fused[0] / "report.json").read_text())
    *outer, last = keys
    section = report
    for key in outer:
        section = section[key]
    del section[last]
    with pytest.raises(KeyError, match=f"^'{last}'$"):
        render_page(report)

"""The card of a student: names are text in it whatever characters they hold, and local paths are not uploaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from command import compress, tiny_recipe, write_recipe
from markdown_it import MarkdownIt

from compressor import recipe as recipes

HOSTILE = [
    "line\nbreak",
    "# heading",
    "- item",
    "12. item",
    "a | b",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "back`tick``s",
    "`",
    "```\n# heading\n```",
    "~~~\n# heading",
    "---\nlicense: mit\n---",
    "](https://example.org)",
    "![x](https://example.org/x.png)",
    "*bold* _both_ ~~gone~~ $x$",
    "&lt;b&gt; & <b>",
    "\\",
    "new\x1b[31mcolour",
    "\u202etxt.exe",
    "half \udc80 letter",
]


def parsed(card):
    """The tokens of a card's body, those inside lines too."""
    body = card.partition("\n---\n")[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body)
    return [one for token in tokens for one in (token, *(token.children or ()))]


def card_of(name):
    """A card in which a name is wherever a name can be."""
    from compressor.report.card import render_card

    recipe = recipes.build_recipe({"teachers": [name, "plain"], "data": {"source": name}})
    row = {"name": name, "accuracy": 0.5, "kl": 0.1, "parameters": 10, "macs": 20, "bytes": 40}
    report = {
        "version": "1",
        "teachers": [{"name": name, "fingerprint": "ab" * 32}],
        "fusion": {"choices": {"residual": f"readers of {name}", name: True}},
        "table": [row, {**row, "name": "student"}],
        "environment": {"cpu": name},
        "evaluation": {"data": name},
    }
    return render_card(recipe, report)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text(name):
    card, usual = card_of(name), card_of("usual")
    # What stands there is of the same kinds as with any other name: no heading, cell, link or HTML more.
    kinds = [[token.type for token in parsed(text) if token.type != "text"] for text in (card, usual)]
    assert kinds[0] == kinds[1]
    assert card.splitlines().count("---") == 2
    card.encode("utf-8")


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.isprintable()])
def test_a_name_is_shown_as_it_is(name):
    tokens = parsed(card_of(name))
    codes = [token.content for token in tokens if token.type == "code_inline"]
    assert codes.count(name) == 2
    lines = ["".join(one.content for one in token.children) for token in tokens if token.type == "inline"]
    assert name in lines and f"cpu: {name}" in lines and f"residual map: readers of {name} (asked for)" in lines


def test_usual_names_are_written_as_they_are():
    assert "- cpu: 2.13.0+cpu\n" in card_of("2.13.0+cpu")
    card = card_of("cifar10-vit_a (2)")
    for line in ("- teacher `cifar10-vit_a (2)` (sha256", "| cifar10-vit_a (2) |", "- cpu: cifar10-vit_a (2)\n"):
        assert line in card


@pytest.fixture
def site(monkeypatch):
    """A Hub that keeps the text of what it is sent."""
    from compressor.pipeline.output import hub

    class Hub:
        def __init__(self):
            self.sent = {}

        def create_repo(self, name, **_):
            return f"https://hub/{name}"

        def upload_folder(self, *, folder_path, **_):
            files = (path for path in Path(folder_path).rglob("*") if path.is_file())
            self.sent = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files}

    found = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: found)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_test")
    return found


@pytest.fixture
def recipe(vit_a, vit_b, image_folder, tmp_path, monkeypatch):
    """A run of one teacher by its absolute path, one by a relative path, and an anchor of neither."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my teachers").mkdir()
    (tmp_path / "my teachers" / "b").symlink_to(vit_b)
    values = tiny_recipe(
        [vit_a, "my teachers/b"], image_folder, tmp_path / "out" / "s", finetune={"enabled": False},
        export={"onnx": True, "formats": ["onnx", "torch-export"]},
    )  # fmt: skip
    return write_recipe(tmp_path / "r.yaml", values)


@pytest.mark.slow
def test_no_local_path_is_uploaded(capsys, site, recipe, vit_a, tmp_path):
    import torch

    code, out, err = compress(capsys, "run", recipe, "--push-to-hub", "me/student", "--json")
    assert code == 0, err
    secrets = [str(tmp_path), str(vit_a.parent), "my teachers", str(Path(torch.__file__).parents[1])]
    secrets += [os.path.realpath(secret) for secret in secrets]
    for name, content in site.sent.items():
        assert not [secret for secret in secrets if secret.encode() in content], name
    report = json.loads(site.sent["report.json"])
    assert report["recipe"]["teachers"] == [teacher["name"] for teacher in report["teachers"]] == ["a", "b"]
    source = report["recipe"]["data"]["source"]
    assert report["recipe"]["output"] == "s" and report["evaluation"]["data"] == f"{source} (test)"
    assert yaml.safe_load(site.sent["recipe.yaml"]) == report["recipe"]
    assert b"- teacher `a`" in site.sent["README.md"] and b"<!doctype html>" in site.sent["report.html"]
    # Here all is as it was, and everything is sent.
    assert json.loads(out)["recipe"]["teachers"] == [str(vit_a), "my teachers/b"]
    folder = tmp_path / "out" / "s"
    assert json.loads((folder / "report.json").read_text()) == json.loads(out)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == site.sent.keys()


def test_local_paths_are_uploaded_when_asked_for(capsys, site, recipe, vit_a):
    # Paths stand in documents alone: no other file needs to be there.
    recipe = write_recipe("quick.yaml", {**yaml.safe_load(recipe.read_text()), "export": {"onnx": False}})
    code, _, _ = compress(capsys, "run", recipe, "--push-to-hub", "me/student", "--with-paths")
    assert code == 0 and str(vit_a).encode() in site.sent["README.md"]


def test_paths_without_an_upload_are_refused(capsys, recipe, tmp_path):
    code, _, err = compress(capsys, "run", recipe, "--with-paths")
    assert code == 2 and "--push-to-hub" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("paths", [False, True])
def test_no_sample_of_the_data_is_uploaded(finished_run, tmp_path, paths):
    from compressor.pipeline.output.documents import update_report
    from compressor.pipeline.output.published import published

    folder = tmp_path / "student"
    shutil.copytree(finished_run[0], folder)
    report = json.loads((folder / "report.json").read_text())
    answer = {"answer": "cat", "probability": 0.5}
    secret = {"sample": 1, "label": None, "ensemble": answer, "student": answer, "kl": 1.0, "token": None}
    report["differences"]["samples"] = [
        {**secret, "picture": "data:image/png;base64,SECRET", "text": None},
        {**secret, "picture": None, "text": "a SECRET sentence"},
    ]
    (folder / "report.json").write_text(json.dumps(report))
    update_report(folder, {})
    assert "SECRET" in (folder / "report.html").read_text()
    with published(folder, paths=paths) as copy:
        sent = {path.name: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert not [name for name, content in sent.items() if b"SECRET" in content]
    # The measured groups stay.
    assert json.loads(sent["report.json"])["differences"]["groups"] == report["differences"]["groups"]
    assert "SECRET" in (folder / "report.json").read_text()


def front_of(task="text-classification", **changes):
    """The card's metadata as the Hub's library reads it."""
    from huggingface_hub import ModelCard

    from compressor.report.card import render_card

    teachers = [("hub", "org/wide@v1"), ("folder", "/home/me/wide"), ("builtin", "vit-a")]
    sizes = {"parameters": 10, "macs": 20, "bytes": 40}
    row = {"name": "org/wide", "accuracy": 0.5, "f1": 0.25, "perplexity": None, "kl": None, **sizes}
    report = {
        "teachers": [{"name": name, "kind": kind, "fingerprint": "ab" * 32} for kind, name in teachers],
        "table": [row, {**row, "name": "finetuned", "accuracy": 0.123456, **changes}],
        "evaluation": {"data": "/data/of me/reviews (test)", "dataset": None},
    }
    report["evaluation"] |= changes.get("evaluation", {})
    values = {
        "teachers": [name for _, name in teachers],
        "output": "/home/me/out/small",
        "data": {"source": "/data/of me/reviews"},
    }
    return ModelCard(render_card(recipes.build_recipe(values), report, task=task))


def test_the_front_matter_is_what_the_hub_reads():
    card = front_of()
    data = card.data
    assert (data.base_model, data.datasets, data.metrics) == (["org/wide"], None, ["accuracy", "f1"])
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("transformers", "text-classification", "small")
    first, second = data.eval_results
    assert (first.metric_type, first.metric_value, second.metric_type, second.metric_value) == (
        "accuracy",
        0.1235,
        "f1",
        0.25,
    )
    assert (first.dataset_name, first.dataset_type, first.dataset_split) == ("reviews (test)", "reviews", "test")
    assert first.task_type == "text-classification"
    # Names, not paths, in the metadata and in the text up to the recipe.
    shown = str(card).partition("## Make it again")[0]
    assert "/home" not in shown and "/data" not in shown
    assert "- teacher `wide` (sha256" in shown and "of `reviews (test)`" in shown


def test_data_of_the_hub_are_named_as_there():
    data = front_of(evaluation={"data": "org/reviews (validation)", "dataset": "org/reviews"}).data
    assert data.datasets == ["org/reviews"]
    assert {(one.dataset_type, one.dataset_split) for one in data.eval_results} == {("org/reviews", "validation")}


def test_without_scores_there_is_no_model_index():
    data = front_of(accuracy=None, f1=None).data
    assert data.eval_results is None and data.metrics is None
    data = front_of("causal-lm", perplexity=12.34567).data
    assert [(one.metric_type, one.metric_value) for one in data.eval_results] == [("perplexity", 12.3457)]
    assert data.pipeline_tag == "text-generation"


def test_only_data_that_are_nowhere_here_are_of_the_hub(tmp_path, monkeypatch):
    from compressor.pipeline.output.published import hub_dataset

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for source in (None, "digits", "mine", "./org/name", "/a/b", "a.csv,b.csv", "a*.csv", "~/a"):
        assert hub_dataset(source) is None
    assert hub_dataset("org/name") == "org/name" and hub_dataset("imdb") == "imdb"


def test_names_stand_for_paths_alone(tmp_path, monkeypatch):
    from compressor.pipeline.output.published import without_paths

    monkeypatch.chdir(tmp_path)
    for folder in ("x/a", "y/a", "a"):
        (tmp_path / folder).mkdir(parents=True)
    values = {
        "teachers": ["x/a", "y/a", "a", "google/vit-base", "vit-a"],
        "output": f"{tmp_path}/out",
        "data": {"source": f"{tmp_path}/d/*.csv,~/more.csv"},
        "fusion": {"anchor": "../z"},
    }
    report = {
        "recipe": recipes.build_recipe(values).model_dump(mode="json"),
        "notes": [
            f"a word, x/a, y/a and {tmp_path}/x/a/config.json",
            "of google/vit-base, onnx/model.onnx, https://example.org/a/b, 3/4, img/s",
            "in /home/some one/else and /opt/lib/python/site.py, line 3",
        ],
        "by name": {"x/a": 1, f"{tmp_path}/x/a": 2},
        "number": 0.5,
    }
    found = without_paths(report)
    told = found["recipe"]
    assert told["teachers"] == ["a (2)", "a (3)", "a", "google/vit-base", "vit-a"]
    assert (told["output"], told["data"]["source"], told["fusion"]["anchor"]) == ("out", "*.csv,more.csv", "z")
    assert found["notes"][0] == "a word, a (2), a (3) and a (2)/config.json"
    assert found["notes"][1] == report["notes"][1]
    assert "/opt" not in found["notes"][2] and "site.py, line 3" in found["notes"][2]
    assert set(found["by name"]) == {"a (2)"} and found["number"] == 0.5

"""docs/examples/first_student.ipynb runs from top to bottom, and is a notebook that others can open."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from test_documents import quick

PATH = Path(__file__).parents[2] / "docs" / "examples" / "first_student.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return json.loads(PATH.read_text(encoding="utf-8"))


def sources(notebook, kind):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def run(code, names):
    """Run a cell; the value of its last line, if that is an expression, as a notebook shows it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, PATH.name, "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), PATH.name, "eval"), names)


def test_it_runs_from_top_to_bottom(notebook, quick_builtin, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names, shown = {}, []
    for code in sources(notebook, "code"):
        shown.append(run(quick(code), names))
    assert names["tuned"].report.steps == 2
    assert names["model"].config.hidden_size == shown[-1] == 16
    assert (tmp_path / "student" / "report.html").exists()
    pages = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(pages) == 6 and all(page.startswith(("<table>", "<pre>")) for page in pages)


def test_it_has_the_format_of_notebooks(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        assert cell.keys() == (keys | {"outputs", "execution_count"} if cell["cell_type"] == "code" else keys)
        for output in cell.get("outputs", ()):
            assert output["output_type"] == "execute_result" and "text/plain" in output["data"]


def test_what_it_shows_is_of_no_machine(notebook):
    text = PATH.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|usr|work)/|[A-Z]:\\\\", text)


def test_the_search_of_the_guide_works_from_a_file():
    """A page that is opened as a file may neither fetch an index nor start a worker from a file."""
    settings = yaml.safe_load((PATH.parents[2] / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["plugins"] == ["search", "offline"]
    (shim,) = settings["extra"]["polyfills"]
    # The plugin adds one from a server unless one of that name is there.
    assert "iframe-worker" in shim and "://" not in shim
    assert "window.Worker=" in (PATH.parents[1] / shim).read_text(encoding="utf-8")

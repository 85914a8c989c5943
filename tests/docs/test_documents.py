"""What the README and the guide tell people to type does what they say.

Every command in a fenced block is run as it stands, in one folder where tiny stand-ins have the names that the
documents use: only flags that make it quick are added.  What is not run is listed with its reason.  Python blocks run
too; links lead somewhere; repeated figures are those of the generated pages.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from forked import forked_workers
from own_model import save_own_model
from tiny import quick_builtins, save_images, save_vit
from tiny_sentences import save_sentence_model
from tiny_text import save_plain, save_sentences, save_text_model, save_translations

ROOT = Path(__file__).parents[2]
#: In the order in which their commands are run: some use what an earlier page has made.
PAGES = (
    "index", "install", "quickstart", "recipes", "teachers", "sentences", "data", "size", "finetune", "output",
    "deploy", "python", "paper", "limits", "commands", "how", "results", "extend",
    "tasks/image-classification", "tasks/text-classification", "tasks/masked-lm", "tasks/causal-lm",
    "tasks/encoder-decoder", "tasks/features",
)  # fmt: skip
DOCUMENTS = ("README.md", *(f"docs/{page}.md" for page in PAGES))
#: Pages of docs/ that a script writes.
GENERATED = {"docs/families.md", "docs/zoo.md"}
#: Pages that exist in the built guide alone.
BUILT = {"docs/options.md", "docs/methods.md"}
#: Added to commands, so that they take a second and not minutes.
QUICK = {
    "fuse": "--samples 16 --steps 2 --batch-size 4 --no-latency --no-onnx --force",
    "finetune": "--steps 2 --batch-size 4 --no-latency --no-onnx --force",
    "run": "--force",
    "bench": "--seconds 0.01 --batch-size 2 --no-onnx",
    "landscape": "--points 2 --eval-samples 4 --force",
    "interpolate": "--points 3 --eval-samples 4 --force",
}
#: Lines that are not run, and why.
NOT_RUN = {
    "make demo": "installs the package into a new environment; what it runs there is run below",
    "make test": "runs this test",
    "make docs": "installs what builds the guide; what it takes from the code is tried below",
    "pip install .": "needs a network",
    "python3 -m venv .venv": "makes an environment",
    "source .venv/bin/activate": "is of a shell",
    "uvx --from . compress fuse --width 0.5 vit-a vit-b": "installs into a new environment",
}


def fences(document, language):
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def lines_of(document):
    """The command lines of a document: continued lines joined, comments left out."""
    for block in fences(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield shlex.join(words)


def alone(words):
    """A command without its launcher, on the CPU: one process runs it (tests/test_processes.py shares a finetune)."""
    if words[0] not in ("torchrun", "accelerate"):
        return words
    return ["compress", *("cpu" if word == "cuda" else word for word in words[words.index("compressor") + 1 :])]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with stand-ins for everything that the documents name; the working folder meanwhile."""
    from compressor.models import builtin

    root = tmp_path_factory.mktemp("documents")
    for seed, name in enumerate(("a", "b", "wide-a", "wide-b")):
        save_vit(root / name, seed=seed)
    for seed, name in enumerate(("own-a", "own-b")):
        save_own_model(root / name, seed)
    save_vit(root / "narrow", seed=4, hidden=16, heads=2)
    save_sentence_model(root / "minilm")
    for seed, end in enumerate("ab"):
        save_text_model(root / f"bert-{end}", "classifier", seed=seed)
        save_text_model(root / f"gpt-{end}", "decoder", seed=seed)
        for name, kind in (("mlm", "masked"), ("encoder", "features"), ("bart", "bart")):
            save_text_model(root / f"{name}-{end}", kind, seed=seed)
    for part, count in (("train", 6), ("test", 3)):
        save_images(root / "cifar10" / part, per_class=count, seed=count)
        save_images(root / "images" / part, per_class=count, seed=count, classes=[f"class {k}" for k in range(3)])
    save_sentences(root / "sst2")
    save_sentences(root / "reviews")
    for name in ("shakespeare", "films", "sums"):
        save_plain(root / f"{name}.txt")
    (root / "numbers").mkdir()
    for part in ("train", "test"):
        save_translations(root / "numbers" / f"{part}.jsonl")
    with forked_workers(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("COMPRESSOR_CACHE", str(root / "cache"))
        patch.setattr(builtin, "BUILTIN", quick_builtins())
        yield root


@pytest.fixture(scope="module")
def done():
    """The lines that were run: several documents say the same."""
    return set()


def makers():
    """{output: the first line of all documents that writes it}."""
    found = {}
    for line in (line for document in DOCUMENTS for line in lines_of(document)):
        words = shlex.split(line)
        for flag, value in pairwise(words):
            if flag in ("-o", "--output"):
                found.setdefault(value, line)
    return found


def run_line(line, done, capsys):
    """Run a line once, after the lines that write what it reads: a page may use the outputs of another."""
    from compressor.cli import run_command

    if line in NOT_RUN or line in done:
        return
    done.add(line)
    program, command, *rest = alone(shlex.split(line))
    assert program == "compress", f"{line}: run it, or say in NOT_RUN why not"
    written = {value for flag, value in pairwise(rest) if flag in ("-o", "--output")}
    for word in rest:
        if word in makers() and word not in written and not Path(word).exists():
            run_line(makers()[word], done, capsys)
    capsys.readouterr()
    code = run_command([command, *rest, *shlex.split(QUICK.get(command, ""))])
    said = capsys.readouterr()
    assert code == 0, f"{line}\n{said.err}"
    assert "error" not in said.err


#: Pages of many commands.
LONG = (
    "docs/recipes.md",
    "docs/deploy.md",
    "docs/finetune.md",
    "docs/commands.md",
    "docs/paper.md",
    "docs/data.md",
    "docs/tasks/causal-lm.md",
    "docs/tasks/encoder-decoder.md",
    "docs/tasks/masked-lm.md",
)


@pytest.mark.parametrize(
    "document",
    [pytest.param(page, marks=pytest.mark.slow if page in LONG else ()) for page in DOCUMENTS],
)
def test_every_command_runs(place, done, capsys, document):
    for line in lines_of(document):
        run_line(line, done, capsys)


def test_what_is_not_run_is_still_there():
    lines = {line for document in DOCUMENTS for line in lines_of(document)}
    assert NOT_RUN.keys() <= lines
    for line in (line for line in NOT_RUN if line.startswith("make ")):
        told = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr


def test_every_command_that_is_named_exists():
    import typer.main

    from compressor.cli.app import app

    known = set(typer.main.get_command(app).commands)
    for document in DOCUMENTS:
        named = set(re.findall(r"`compress ([a-z]+)", (ROOT / document).read_text(encoding="utf-8")))
        assert named <= known, document


def test_every_flag_that_is_named_exists():
    import typer.main

    from compressor.cli.app import app

    group = typer.main.get_command(app)
    commands = [group, *group.commands.values()]
    options = [parameter for command in commands for parameter in command.params]
    known = {"--help", *(flag for option in options for flag in (*option.opts, *option.secondary_opts))}
    # Added when the command runs.
    known |= {"--install-completion", "--help-all"}
    for document in DOCUMENTS:
        named = set(re.findall(r"`(--[a-z-]+)", (ROOT / document).read_text(encoding="utf-8")))
        assert named <= known, document


#: Values in Python blocks that make them quick.
QUICK_VALUES = {
    "steps=200": "steps=2, batch_size=4",
    "onnx=False, seconds=10": "onnx=False, seconds=0.01, batch_size=2",
    "seconds=10)": 'seconds=0.01, batch_size=2, backends="torch")',
    ":1024,": ":32,",
    "split(128)": "split(8)",
    'width=0.5, data="digits")': 'width=0.5, data="digits", samples=16, batch_size=8, inner="slice", polish=0)',
}


def quick(code):
    for before, after in QUICK_VALUES.items():
        code = code.replace(before, after)
    return code


def test_the_python_of_the_readme_runs(place, monkeypatch, tmp_path):
    from transformers import AutoModelForImageClassification

    monkeypatch.chdir(tmp_path)
    [code] = fences("README.md", "python")
    assert len(code.splitlines()) <= 5
    exec(compile(quick(code), "README.md", "exec"), {})
    assert AutoModelForImageClassification.from_pretrained("student").config.hidden_size == 16


@pytest.mark.slow
def test_the_python_page_runs_from_top_to_bottom(place, monkeypatch, tmp_path, capsys):
    import compressor

    for name in ("bert-a", "bert-b"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    whole, names = "".join(fences("docs/python.md", "python")), {}
    assert all(value in whole for value in QUICK_VALUES)
    for number, code in enumerate(fences("docs/python.md", "python")):
        exec(compile(quick(code), f"docs/python.md, block {number + 1}", "exec"), names)
    assert names["result"].model.config.hidden_size == 16
    assert names["text_student"].config.hidden_size == 16
    assert Path("student/onnx/model.onnx").exists()
    assert names["tuned"].report.steps == 2 and Path("tuned/onnx/model.onnx").exists()
    face = {name for name in compressor.__all__ if not name.startswith("_")} - {"UserError"}
    assert all(f"compressor.{function}(" in whole for function in face)


def test_the_python_page_names_all_of_a_result():
    from dataclasses import fields

    from compressor.fusion import FusionResult

    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert all(f"| `.{field.name}` |" in text for field in fields(FusionResult))


def test_the_page_of_sentence_embeddings_runs(monkeypatch, tmp_path, capsys):
    pytest.importorskip("sentence_transformers")
    save_plain(tmp_path / "films.txt")
    save_sentence_model(tmp_path / "minilm-half")
    monkeypatch.chdir(tmp_path)
    search, _ = fences("docs/sentences.md", "python")
    exec(compile(search, "docs/sentences.md", "exec"), {})
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_the_quickstart_loads_the_student(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_vit("student", hidden=16, heads=2)
    [code] = fences("docs/quickstart.md", "python")
    names = {}
    exec(compile(code, "docs/quickstart.md", "exec"), names)
    assert names["model"].config.hidden_size == 16


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert "`make test`" in text


def test_every_page_of_the_guide_is_read_here():
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert found == {document for document in DOCUMENTS if document.startswith("docs/")} | GENERATED


def test_every_link_leads_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    for page in pages:
        if page.parent.name == "said" or page.name == "said.md":  # parts of pages that lie elsewhere
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            path = (page.parent / target).resolve()
            assert path.exists() or path.relative_to(ROOT).as_posix() in BUILT, f"{page.relative_to(ROOT)}: {target}"


def rows_of(document):
    """Tables of a document: {name of the row: its cells, without emphasis}."""
    rows = {}
    for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            name, *cells = (cell.strip().strip("*") for cell in line.strip("|").split("|"))
            rows.setdefault(name, cells)
    return rows


def test_repeated_figures_are_those_of_the_contest():
    contest = "benchmarks/results/students/students.md"
    lines = (ROOT / contest).read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| half width |"))
    table = lines[start : lines.index("", start)]
    assert "\n".join(table) in (ROOT / "docs/results.md").read_text(encoding="utf-8")
    measured, cited = rows_of(contest), rows_of("README.md")
    names = {
        "compressor": "ours",
        "the better teacher alone, our refit": "one teacher with our refit, the better one",
        "Torch-Pruning (Taylor, with labels)": "Torch-Pruning, Taylor (labels), heads or channels",
        "k-means folding": "k-means folding",
        "narrow model trained on labels": "narrow model trained on labels",
        "OT fusion into it, as in the paper": "OT fusion into it, as the paper",
    }
    for name, row in names.items():
        assert cited[name] == [cell.split(" ± ")[0] for cell in measured[row]], name


def test_what_the_guide_adds_works():
    import torch

    from compressor.fusion.anchored.policies import POLICIES, outgoing_coupling
    from compressor.fusion.maps.units import UNIT_MAPS
    from compressor.transport import SOLVERS, from_selection, identity_coupling, solve, uniform

    registries = {"outer": SOLVERS, "mostly-stream": POLICIES, "first": UNIT_MAPS}
    try:
        for code in fences("docs/extend.md", "python"):
            exec(compile(code, "extend.md", "exec"), {})
        coupling = solve("outer", torch.rand(6, 3), uniform(6), uniform(3))
        assert coupling.marginal_error < 1e-12
        stream, branch = identity_coupling(4), from_selection(torch.tensor([1, 0, 3, 2]), 4)
        left = outgoing_coupling(POLICIES.get("mostly-stream"), [stream, branch], [torch.ones(4), torch.ones(4)])
        assert torch.allclose(left.plan, 0.9 * stream.plan + 0.1 * branch.plan)
        assert "first" in UNIT_MAPS.names()
    finally:
        for name, registry in registries.items():
            registry._entries.pop(name, None)


@pytest.fixture(scope="module")
def build():
    """What the guide takes from the code; `make docs` builds all of it, strictly."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    specification = importlib.util.spec_from_file_location("guide", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_guide_has_every_option_command_and_method(build):
    import typer.main

    from compressor.cli.app import app
    from compressor.cli.options import FLAGS
    from compressor.recipe import FinetuneOptions
    from compressor.transport import SOLVERS

    options = build.options()
    for name, flag in FLAGS.items():
        assert f"`{flag.path.rpartition('.')[2]}`<br>`{name}` |" in options
    assert all(f"| `{name}`" in options for name in FinetuneOptions.model_fields)
    assert "| `solver`<br>`--solver` | text | `emd` |" in options
    assert "## `fusion.alignment`" in options
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## compress ([a-z]+)\n", page, flags=re.MULTILINE)
    known = typer.main.get_command(app).commands
    assert sorted(sections) == sorted(known)
    built = build.on_page_markdown(page, None, None, None)
    assert "::options" not in built and "[dim]" not in built
    for name, command in known.items():
        section = built.split(f"## compress {name}\n")[1].split("\n## ")[0]
        assert f"compress {name}" in section.split("```bash\n")[1]
        assert all(f"`{one.opts[0]}`" in section for one in command.params if one.param_type_name == "option")
    assert "| Alignment to an anchor (the paper) | |" in built
    methods = build.methods()
    assert all(f"| `{name}` |" in methods for name in SOLVERS.names())


def test_every_formula_of_the_guide_is_drawn(build):
    text = "".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS if "docs" in document)
    written = [*re.findall(r"\\\((.+?)\\\)", text, re.DOTALL), *re.findall(r"\\\[(.+?)\\\]", text, re.DOTALL)]
    assert len(written) > 40
    for formula in written:
        drawn = build._formula(formula, "inline")
        assert drawn.startswith("<math") and "\\" not in drawn, formula


def test_links_to_the_benchmarks_lead_to_their_pages_in_the_guide(build):
    assert build.on_page_markdown("[x](../benchmarks/a/b.md#c)", None, None, None) == "[x](benchmarks/a/b.md#c)"


def test_recipes_are_put_in(build):
    told = build.on_page_markdown("before\n\n::recipe demo.yaml\n", None, None, None)
    assert (ROOT / "recipes" / "demo.yaml").read_text(encoding="utf-8").rstrip() in told
    assert told.startswith("before\n\n```yaml\n")

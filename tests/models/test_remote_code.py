"""Code which lies in a model's folder is run with consent alone, whatever its files say."""

from __future__ import annotations

import ast
import io
import itertools
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command import compress
from own_model import save_own_model
from PIL import Image
from tiny_text import save_text_model

from compressor.utils.consent import is_code_trusted

ROOT = Path(__file__).parents[2]

CODE = """
from pathlib import Path
Path({sentinel!r}).write_text("ran")
from transformers import PreTrainedTokenizerFast, ViTConfig, ViTImageProcessorPil

class Config(ViTConfig): ...
class Processor(ViTImageProcessorPil): ...
class Tokenizer(PreTrainedTokenizerFast): ...
"""

IMAGES, TOKENS, MODEL = "preprocessor_config.json", "tokenizer_config.json", "config.json"
PROCESSOR, TOKENIZER = {"AutoImageProcessor": "own.Processor"}, {"AutoTokenizer": [None, "own.Tokenizer"]}
#: A class of transformers is there too: (kind of model, file, what it says besides).
NOT_NEEDED = [
    ("vit", IMAGES, {"auto_map": PROCESSOR}),
    ("vit", MODEL, {"auto_map": {"AutoConfig": "own.Config", **PROCESSOR}}),
    ("vit", MODEL, {"auto_map": {"AutoModelForImageClassification": "own.Model"}}),
    ("classifier", TOKENS, {"auto_map": TOKENIZER, "tokenizer_class": "Tokenizer"}),
    ("classifier", MODEL, {"auto_map": TOKENIZER}),
]
#: There is none.
NEEDED = [
    ("vit", IMAGES, {"auto_map": PROCESSOR, "image_processor_type": "Processor"}),
    ("vit", MODEL, {"auto_map": {"AutoConfig": "own.Config"}, "model_type": "own"}),
    ("llama", TOKENS, {"auto_map": TOKENIZER, "tokenizer_class": "Tokenizer"}),
    ("llama", TOKENS, {"auto_map": {"AutoTokenizer": [None, "else/where--own.Tokenizer"]}, "tokenizer_class": "Own"}),
]


@pytest.fixture
def sentinel(tmp_path, monkeypatch):
    """A file that is there once the code has run; whoever is asked says yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "sentinel"


@pytest.fixture
def with_code(tmp_path, vit_a, sentinel):
    """Makes a model's folder that holds code, and names it in one of its files."""

    def make(kind, file, values):
        folder = tmp_path / "model"
        if kind == "vit":
            shutil.copytree(vit_a, folder)
        else:
            save_text_model(folder, kind)
        (folder / "own.py").write_text(CODE.format(sentinel=str(sentinel)))
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return folder

    return make


@pytest.mark.parametrize("kind, file, values", NOT_NEEDED)
def test_a_class_of_transformers_takes_its_place(with_code, sentinel, kind, file, values, tmp_path):
    from compressor.models.folder.save import save_student
    from compressor.models.load import load_teacher

    folder = with_code(kind, file, values)
    teacher = load_teacher(str(folder))
    assert not sentinel.exists()
    for one in (teacher.model, teacher.config, teacher.processor):
        assert type(one).__module__.startswith("transformers.")
    [note] = teacher.notes
    assert note.startswith(f"{folder} names code of its own (auto_map), which was not run")
    # What is made of it needs nothing that is not there.
    save_student(tmp_path / "student", teacher.model, teacher.processor)
    assert not any("auto_map" in path.read_text() for path in (tmp_path / "student").glob("*.json"))


@pytest.mark.parametrize("kind, file, values", NEEDED)
def test_what_needs_it_is_refused_in_one_line(capsys, with_code, sentinel, kind, file, values):
    folder = with_code(kind, file, values)
    code, out, err = compress(capsys, "bench", folder, "--seconds", 0.01, "--backends", "torch", "--json")
    assert (code, out) == (2, "") and not sentinel.exists()
    assert (
        err.count("\n") == 1
        and str(folder) in err
        and "code" in err
        and "(auto_map)" in err
        and "--trust-remote-code" in err
    )


@pytest.fixture
def own(tmp_path, sentinel, monkeypatch):
    """Two teachers whose classes are code of their own, and images for them."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        save_own_model(tmp_path / name, seed, sentinel=sentinel)
    draw = np.random.default_rng(0)
    for split, index in itertools.product(("train", "test"), range(12)):
        folder = tmp_path / "images" / split / f"class {index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path


FUSE = ("--data", "images", "--width", 0.5, "--steps", 1, "--batch-size", 6, "--residual", "principal", "--inner",
        "select", "--no-latency")  # fmt: skip


def test_without_consent_no_command_runs_code_and_each_names_the_flag(capsys, own, sentinel):
    commands = (
        ["inspect", "a"], ["plan", "a", "b"], ["fuse", "a", "b", *FUSE], ["evaluate", "a", "--data", "images"],
        ["bench", "a", "--seconds", 0.01], ["export", "a"],
    )  # fmt: skip
    for words in commands:
        code, out, err = compress(capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert "--trust-remote-code" in err and "auto_map" in err
    assert not sentinel.exists() and not (own / "student").exists()


def test_with_consent_a_student_is_made_that_transformers_alone_loads(capsys, own, sentinel):
    code, out, err = compress(capsys, "fuse", "a", "b", *FUSE, "--trust-remote-code")
    assert code == 0, err
    assert "code of a was run" in err and not is_code_trusted()
    assert "next: compress evaluate student --trust-remote-code" in " ".join(out.split())
    report = json.loads((own / "student" / "report.json").read_text())
    assert report["recipe"]["trust_remote_code"] is True
    assert report["student"]["code"] == ["configuration_own.py", "modeling_own.py"]
    assert max(report["fusion"]["certificate"].values()) < 1e-5
    assert report["onnx"]["largest_relative_difference"] < 1e-4
    card = (own / "student" / "README.md").read_text()
    assert 'from_pretrained("path/to/this/folder", trust_remote_code=True)' in card
    assert "--output again --trust-remote-code" in card
    for name in ("configuration_own.py", "modeling_own.py"):
        assert (own / "student" / name).read_text() == (own / "a" / name).read_text()
    program = (
        "from transformers import AutoModelForImageClassification as Auto\n"
        "model = Auto.from_pretrained('student', trust_remote_code=True)\n"
        "print(type(model).__name__, model.config.hidden_size)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "OwnForImageClassification 16\n", done.stderr
    # What follows asks again, the recipe that says so too.
    for words in (["evaluate", "student", "--data", "images"], ["run", "student/recipe.yaml", "--output", "again"]):
        assert "--trust-remote-code" in compress(capsys, *words)[2]
        code, _, err = compress(capsys, *words, "--trust-remote-code")
        assert code == 0, err
    code, out, _ = compress(capsys, "bench", "student", "--seconds", 0.01, "--backends", "torch", "--json",
                            "--trust-remote-code")  # fmt: skip
    assert code == 0 and json.loads(out)["results"]
    # It is the output of a run, code and all.
    assert compress(capsys, "fuse", "a", "b", *FUSE, "--trust-remote-code", "--force")[0] == 0
    (own / "student" / "mine.py").write_text("")
    assert "student holds mine.py" in compress(capsys, "fuse", "a", *FUSE, "--trust-remote-code", "--force")[2]


def test_python_asks_for_consent_too(own, sentinel):
    import compressor

    with pytest.raises(compressor.UserError, match="--trust-remote-code, in Python trust_remote_code=True"):
        compressor.inspect("a")
    assert not sentinel.exists()
    fused = compressor.fuse(["a", "b"], residual="principal", inner="select", trust_remote_code=True)
    assert fused.save("saved").joinpath("modeling_own.py").is_file()
    assert compressor.evaluate("saved", data="images", trust_remote_code=True)
    assert compressor.inspect("saved", trust_remote_code=True).error < 1e-5


def test_consent_is_for_one_call(with_code, sentinel):
    """Also where the code adds a model to a config of transformers, and was imported before."""
    from compressor.errors import UnsupportedError
    from compressor.models.configs.reading import model_class, read_config
    from compressor.utils.consent import code_trusted

    name = "OwnForImageClassification"
    names = {"auto_map": {"AutoModelForImageClassification": f"own.{name}"}, "architectures": [name]}
    folder = with_code("vit", MODEL, names)
    with (folder / "own.py").open("a") as file:
        file.write(f"from transformers import ViTForImageClassification as V\nclass {name}(V): ...\n")
    with code_trusted(True):
        assert model_class(read_config(folder)).__name__ == name
    assert sentinel.exists()
    with pytest.raises(UnsupportedError, match="OwnForImageClassification is not a model of transformers"):
        model_class(read_config(folder))


def test_code_that_fails_or_differs_is_one_line(capsys, own):
    (own / "a" / "modeling_own.py").write_text("import nothing_of_this_name")
    _, _, err = compress(capsys, "plan", "a", "--trust-remote-code")
    assert err.count("\n") == 1 and "a" in err and "nothing_of_this_name" in err


def test_json_is_json_alone_and_says_what_was_not_run(capsys, with_code, sentinel, image_folder):
    folder = with_code("vit", IMAGES, {"auto_map": PROCESSOR})
    code, out, err = compress(capsys, "evaluate", folder, "--data", image_folder, "--json")
    assert code == 0 and not sentinel.exists()
    [note] = json.loads(out)["notes"]
    assert "was not run" in note and note in err


def test_a_kernel_that_a_config_names_is_not_fetched(capsys, with_code):
    """It would be a program of the Hub."""
    folder = with_code("vit", MODEL, {"attn_implementation": "some-one/attention"})
    code, _, err = compress(capsys, "inspect", folder)
    assert (code, err) == (0, "")


def test_every_loading_call_refuses_code():
    found = {}
    for path in (ROOT / "compressor").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            # Generation settings are JSON, whatever lies beside them.
            if getattr(getattr(getattr(call, "func", None), "value", None), "id", "") == "GenerationConfig":
                continue
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in ("from_pretrained", "from_config"):
                given = {word.arg: ast.unparse(word.value) for word in call.keywords}
                found[f"{path.relative_to(ROOT)}:{call.lineno}"] = given.get("trust_remote_code")
    # Config (by Auto class and by its own), model, and image processor or tokenizer.
    assert len(found) == 4
    assert set(found.values()) == {"is_code_trusted()"}, found
    assert not is_code_trusted()


def test_no_release_of_datasets_is_used_that_runs_programs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [needed] = [line for line in project["dependencies"] if line.startswith("datasets")]
    assert int(needed.partition(">=")[2].partition(".")[0]) >= 4

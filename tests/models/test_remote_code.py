"""That code which lies in a model's folder is never run, whatever its files say and whatever is typed."""

from __future__ import annotations

import ast
import io
import json
import shutil
import tomllib
from pathlib import Path

import pytest
from command import compress
from tiny_text import save_text_model

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
    from compressor.models.load import load_teacher
    from compressor.models.save import save_student

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
    assert err.count("\n") == 1 and str(folder) in err and "code" in err and "(auto_map)" in err and "never run" in err


def test_the_consent_that_others_ask_for_is_answered_with_the_reason(capsys):
    import compressor

    for command in ("fuse", "plan", "inspect", "bench"):
        code, out, err = compress(capsys, command, "vit-a", "--trust-remote-code")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "--trust-remote-code" in err and "never run" in err and "a class of transformers" in err
    with pytest.raises(compressor.UserError, match="'trust_remote_code': the code of a model's folder is never run"):
        compressor.fuse("vit-a", trust_remote_code=True)
    # Other unknown options are answered as before.
    _, _, err = compress(capsys, "fuse", "vit-a", "--wdth", "1")
    assert "never run" not in err and "compress --help" in err


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
                given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
                found[f"{path.relative_to(ROOT)}:{call.lineno}"] = given.get("trust_remote_code")
    # Config, model, and image processor or tokenizer.
    assert len(found) == 3
    assert all(value is False for value in found.values()), found


def test_no_release_of_datasets_is_used_that_runs_programs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [needed] = [line for line in project["dependencies"] if line.startswith("datasets")]
    assert int(needed.partition(">=")[2].partition(".")[0]) >= 4

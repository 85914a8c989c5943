"""A table of bad inputs: each gets exit code 2 and one line; `python tests/cli/test_bad_table.py` prints it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
    os.environ["HF_HUB_OFFLINE"] = "1"

from tiny import save_bert, save_images, save_vit
from tiny_text import save_text_model


@dataclass
class Place:
    """Sound models and data, and a working folder of one case, where everything else is."""

    root: Path
    here: Path

    @property
    def vit(self) -> Path:
        return self.root / "vit"

    def copy(self, kind="vit", **config) -> Path:
        """A copy of a model as `t`, with other fields in its config; `...` takes one away."""
        folder = self.here / "t"
        shutil.copytree(self.root / kind, folder)
        if config:
            values = json.loads((folder / "config.json").read_text()) | config
            values = {name: value for name, value in values.items() if value is not ...}
            (folder / "config.json").write_text(json.dumps(values))
        return folder

    def file(self, name, content="", kind=None) -> Path:
        """A file of the working folder, or in a copy of a model."""
        path = (self.copy(kind) if kind else self.here) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def model_with(self, name, content, kind="vit") -> Path:
        return self.file(name, content, kind).parent

    def weights(self, change) -> Path:
        """A copy of the ViT with changed weights."""
        from safetensors.torch import load_file, save_file

        folder = self.copy()
        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def make_models(root: Path) -> None:
    save_vit(root / "vit")
    save_vit(root / "narrow", hidden=16)
    save_vit(root / "owl", classes=("cat", "dog", "ant", "bee", "owl"))
    save_vit(root / "nameless", classes=tuple(f"LABEL_{index}" for index in range(4)))
    save_vit(root / "large", image_size=24)
    save_bert(root / "bert")
    save_bert(root / "words", words=("bad", "good", "film", "plot", "the"))
    save_text_model(root / "llama", "llama")
    save_images(root / "images" / "train", per_class=2)
    save_images(root / "images" / "test", per_class=2)


def without(place, *names, kind="vit"):
    folder = place.copy(kind)
    for name in names:
        (folder / name).unlink()
    return folder


def cut(place, name, size, kind="vit"):
    folder = place.copy(kind)
    os.truncate(folder / name, size)
    return folder


def replaced(place, name, put):
    """A copy of the ViT with one file replaced by `put(path)`."""
    folder = place.copy()
    (folder / name).unlink()
    put(folder / name)
    return folder


def nan(weights):
    weights["classifier.weight"][0, 0] = float("nan")
    return weights


def rounded(weights):
    import torch

    return weights | {"classifier.weight": weights["classifier.weight"].to(torch.float8_e4m3fn)}


def adapter(place):
    (place.here / "t").mkdir()
    (place.here / "t" / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    return place.here / "t"


def zebra(place):
    folder = place.copy("bert")
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["vocab"]["zebra"] = 7
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def images(place):
    shutil.copytree(place.root / "images", place.here / "images")
    broken = place.here / "images" / "test" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    return place.here / "images"


def work(place):
    (place.here / "s.work").mkdir()
    (place.here / "s.work" / "notes").touch()
    return place.vit


def occupied(place):
    (place.here / "s").mkdir()
    (place.here / "s" / "notes").touch()
    return place.vit


def data(name, content, *more, model="vit", command="evaluate"):
    """Arguments of a command on a data file."""
    return lambda place: [command, place.root / model, "--data", place.file(name, content), *more]


def fuse(*more, data=False):
    return lambda place: ["fuse", place.vit, *(("--data", place.root / "images") if data else ()), *more]


def plan(make):
    return lambda place: ["plan", make(place)]


def export(make):
    return lambda place: ["export", make(place), "-o", "s"]


def pair(other, first="vit"):
    return lambda place: ["plan", place.root / first, place.root / other]


def recipe(text):
    return lambda place: ["run", place.file("r.yaml", text)]


#: {case: (arguments in a place, part of the line)}.
CASES: dict[str, tuple[Callable[[Place], list], str]] = {
    # Names and folders
    "an unknown name": (lambda place: ["plan", "nobody-has-this"], "no model 'nobody-has-this'"),
    "an empty name": (lambda place: ["plan", ""], "config.json"),
    "a name of 5,000 letters": (lambda place: ["plan", "x" * 5000], "no model"),
    "a file for a folder": (plan(lambda place: place.file("m.bin")), "is a file"),
    "an empty folder": (plan(lambda place: place.file("e/f").parent), "no config.json"),
    "a config cut short": (plan(lambda place: cut(place, "config.json", 40)), "is not JSON"),
    "a config of no bytes": (plan(lambda place: cut(place, "config.json", 0)), "is not JSON"),
    "a config that is a list": (plan(lambda place: place.model_with("config.json", "[1]")), "names no model_type"),
    "a config in another encoding": (plan(lambda place: place.model_with("config.json", b"\xff\xfe{")), "is not JSON"),
    "a config that is a folder": (plan(lambda place: replaced(place, "config.json", Path.mkdir)), "config.json"),
    "a config nested 100,000 deep": (plan(lambda place: place.model_with("config.json", "[" * 10**5)), "not JSON"),
    "no model_type": (plan(lambda place: place.copy(model_type=...)), "names no model_type"),
    "an unknown model_type": (plan(lambda place: place.copy(model_type="vat")), "model_type 'vat' is not known"),
    "code of its own": (
        plan(lambda place: place.copy(model_type="own", auto_map={"AutoConfig": "x.Y"})),
        "is not run without --trust-remote-code",
    ),
    "no architecture": (plan(lambda place: place.copy(architectures=...)), "names no architecture"),
    "an unknown architecture": (plan(lambda place: place.copy(architectures=["VatModel"])), "VatModel is not a model"),
    "a size that is a word": (plan(lambda place: place.copy(hidden_size="big")), "'hidden_size' expected int"),
    "a negative depth": (plan(lambda place: place.copy(num_hidden_layers=-1)), "num_hidden_layers is -1"),
    "a billion layers": (plan(lambda place: place.copy(num_hidden_layers=10**9)), "more than any model has"),
    # Weights
    "no weights": (export(lambda place: without(place, "model.safetensors")), "no weights in"),
    "weights of no bytes": (export(lambda place: cut(place, "model.safetensors", 0)), "cannot read the weights"),
    "weights cut short": (export(lambda place: cut(place, "model.safetensors", 9000)), "cannot read the weights"),
    "weights that are text": (
        export(lambda place: place.model_with("model.safetensors", "hello, hello")), "cannot read the weights",
    ),
    "weights that are a folder": (
        export(lambda place: replaced(place, "model.safetensors", Path.mkdir)), "cannot read the weights",
    ),
    "weights that are pickled": (
        export(lambda place: replaced(place, "model.safetensors", lambda path: path.with_suffix(".bin").touch())),
        "pickled weights only",
    ),
    "weights of llama.cpp": (
        export(lambda place: replaced(place, "model.safetensors", lambda path: path.with_suffix(".gguf").touch())),
        "GGUF weights only",
    ),
    "weights of another width": (export(lambda place: place.copy(intermediate_size=48)), "other shapes"),
    "weights of fewer layers": (export(lambda place: place.copy(num_hidden_layers=3)), "missing vit"),
    "weights with NaN": (export(lambda place: place.weights(nan)), "holds NaN or infinity"),
    "weights in eight bits": (export(lambda place: place.weights(rounded)), "is stored as F8_E4M3"),
    "weights of DataParallel": (
        export(lambda place: place.weights(lambda weights: {f"module.{n}": v for n, v in weights.items()})),
        "begin with 'module.'",
    ),
    "a quantised model": (
        plan(lambda place: place.copy(quantization_config={"quant_method": "gptq", "bits": 4})),
        "is quantised (gptq, 4 bits)",
    ),
    "an adapter alone": (plan(adapter), "holds only a LORA adapter of a/b"),
    # Preprocessors
    "no preprocessor": (
        lambda place: ["evaluate", without(place, "preprocessor_config.json"), "--data", place.root / "images"],
        "no preprocessor_config.json",
    ),
    "a broken preprocessor": (
        export(lambda place: place.model_with("preprocessor_config.json", "{")), "cannot read the preprocessor",
    ),
    "a broken tokenizer": (
        export(lambda place: place.model_with("tokenizer.json", "{", "bert")), "cannot read the preprocessor",
    ),
    "a tokenizer with a word too many": (export(zebra), "token 'zebra' has the id 7, but the vocabulary"),
    "padding beyond the vocabulary": (
        plan(lambda place: place.copy("llama", pad_token_id=22)), "pad_token_id is 22, and the vocabulary has 22",
    ),
    # Teachers that do not fit
    "another model type": (pair("bert"), "model type"),
    "other classes": (pair("owl"), "has owl, which"),
    "classes without names": (pair("nameless"), "have no names to match"),
    "another image size": (pair("large"), "image size"),
    "another task": (pair("llama", first="bert"), "model type"),
    "another vocabulary": (
        lambda place: ["evaluate", place.root / "bert", place.root / "words", "--data", place.file("a.tsv", "a\t1\n")],
        "tokenizers differ",
    ),
    "a regression and a classifier": (
        lambda place: ["plan", place.root / "bert", place.copy("bert", problem_type="regression")], "differ in task",
    ),
    "a classifier without labels": (plan(lambda place: place.copy("bert", id2label={})), "num_labels 0"),
    "weights for three of two": (
        lambda place: ["fuse", place.vit, place.root / "narrow", "--weights", "1,1,1"], "weights",
    ),
    # Data
    "no data": (lambda place: ["evaluate", place.vit], "needs labelled data"),
    "data that is not there": (lambda place: ["evaluate", place.vit, "--data", "./none"], "no data at ./none"),
    "a folder without data": (
        lambda place: ["evaluate", place.vit, "--data", place.file("e/f.bin").parent], "no data in",
    ),
    "a table of no bytes": (data("a.csv", "", model="bert"), "is empty"),
    "a table without rows": (data("a.csv", "text,label\n", model="bert"), "a.csv"),
    "a table without texts": (data("a.csv", "x,y\n1,2\n3,4\n", model="bert"), "neither an image nor a text column"),
    "a column that is not there": (
        data("a.csv", "text,label\ngood,1\nbad,0\n", "--text-column", "words", model="bert"), "no text column 'words'",
    ),
    "a label out of range": (data("a.csv", "text,label\ngood,7\nbad,0\n", model="bert"), "label 7 is out of range"),
    "a label that no class has": (data("a.csv", "text,label\ngood,fine\nbad,poor\n", model="bert"), "is not one of"),
    "a broken parquet file": (data("a.parquet", b"PAR1 nothing PAR1"), "cannot read"),
    "a broken line of JSON": (data("a.jsonl", '{"text": "good"\n', model="bert"), "a.jsonl"),
    "an unknown format": (data("a.xyz", "good"), "known formats are"),
    "texts for an image model": (data("a.tsv", "good\t1\nbad\t0\n"), "the teacher reads images"),
    "images for a text model": (
        lambda place: ["evaluate", place.root / "bert", "--data", place.root / "images"], "holds images",
    ),
    "an image cut short": (lambda place: ["evaluate", place.vit, "--data", images(place)],
                           "cannot read the image of"),
    "a split that is not there": (
        lambda place: ["evaluate", place.vit, "--data", place.root / "images", "--eval-split", "dev"], "'dev'",
    ),
    # Flags
    "an unknown command": (lambda place: ["fly"], "No such command 'fly'"),
    "an unknown flag": (fuse("--wide", 1), "--wide"),
    "a width of 0": (fuse("--width", 0), "--width: "),
    "a width of nan": (fuse("--width", "nan"), "--width: "),
    "a width in words": (fuse("--width", "half"), "--width"),
    "a width too small for a head": (fuse("--width", 0.01), "leaves none of the 4 attention heads"),
    "a depth of 0": (fuse("--depth", 0), "--depth: "),
    "a target of parameters that none has": (fuse("--target-params", 3), "no student has 3 parameters"),
    "an unknown preset": (fuse("--preset", "magic"), "magic"),
    "an unknown format of export": (fuse("--formats", "onnx,tflite"), "tflite"),
    "a negative number of steps": (fuse("--steps", -5), "--steps: "),
    "a batch of 0": (fuse("--batch-size", 0), "--batch-size: "),
    "a negative learning rate": (fuse("--learning-rate", -1), "--learning-rate: "),
    "an unknown loss": (fuse("--losses", "magic=1", data=True), "magic"),
    "a seed in words": (fuse("--seed", "lucky"), "--seed"),
    "a device that is not here": (fuse("--device", "abacus"), "no device 'abacus'"),
    "a finetune without data": (lambda place: ["finetune", place.vit, "-t", place.vit], "finetuning needs data"),
    "a measurement of no samples": (lambda place: ["bench", place.vit, "--batch-size", "0"], "--batch-size"),
    "a comparison of no results": (
        lambda place: ["bench", "--compare", place.file("a.json", "{"), place.file("b.json", "{}")], "a.json",
    ),
    "a picture of an unknown kind": (
        lambda place: ["interpolate", place.vit, place.vit, "--data", place.root / "images", "-o", "p.xyz"], "p.xyz",
    ),
    # Outputs
    "an output that is there": (lambda place: ["fuse", occupied(place), "-o", "s"], "exists already"),
    "an output of no run": (lambda place: ["fuse", occupied(place), "-o", "s", "--force"], "is not the output"),
    "an output below a file": (lambda place: ["fuse", place.vit, "-o", place.file("f") / "s"], "cannot write"),
    "an output around the teacher": (lambda place: ["fuse", place.copy(), "-o", ".", "--force"], "holds the teacher"),
    "an output in the teacher": (lambda place: ["fuse", place.copy(), "-o", "t/s"], "t"),
    "an output where nothing can be made": (lambda place: ["fuse", place.vit, "-o", "/proc/none/s"], "cannot write"),
    "work that is nobody's": (lambda place: ["fuse", work(place), "-o", "s"], "is not the work of an interrupted run"),
    "a drawing that is there": (
        lambda place: ["inspect", place.vit, "--graph", place.file("g.svg")], "exists already",
    ),
    # Recipes and reports
    "a recipe that is not there": (lambda place: ["run", "none.yaml"], "no recipe at none.yaml"),
    "a recipe that is no YAML": (recipe("teachers: [a"), "is not YAML"),
    "a recipe that is a list": (recipe("- a\n- b\n"), "r.yaml"),
    "a recipe with an unknown key": (recipe("teachers: [a]\nwdth: 1\n"), "unknown key 'wdth'"),
    "a recipe with a wrong value": (recipe("teachers: [a]\nfinetune: {steps: many}\n"), "finetune.steps"),
    "a recipe without teachers": (recipe("width: 0.5\n"), "teachers"),
    "a report that is not there": (lambda place: ["report", "none"], "no report.json in none"),
    "a broken report": (lambda place: ["report", place.file("s/report.json", "{").parent], "report.json"),
    "a report of something else": (lambda place: ["report", place.file("s/report.json", "{}").parent], "report.json"),
    # Launchers
    "a rank in words": (lambda place: ["RANK=first", "plan", place.vit], "RANK is 'first'"),
    "a rank among none": (lambda place: ["RANK=1", "plan", place.vit], "RANK is 1 of 1 process"),
    "processes without an address": (
        lambda place: ["RANK=0", "WORLD_SIZE=2", "fuse", place.vit], "but not MASTER_ADDR and MASTER_PORT",
    ),
}  # fmt: skip
#: Of them, in `make test`: a case of each kind that costs little; `make test-all` tries all.
SLOW = {
    "a width too small for a head", "a target of parameters that none has", "a broken preprocessor",
    "a table without texts", "a label out of range", "texts for an image model", "a table of no bytes",
    "an unknown loss", "weights in eight bits", "an output in the teacher",
    "weights of another width", "weights of fewer layers", "weights with NaN", "weights of DataParallel",
    "no preprocessor", "a broken tokenizer", "another vocabulary", "an image cut short", "a broken parquet file",
    "weights for three of two", "a broken line of JSON", "a table without rows", "a column that is not there",
    "a label that no class has", "images for a text model", "a split that is not there",
}  # fmt: skip
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def split_variables(arguments):
    """Leading VARIABLE=value, and the rest as texts."""
    texts = [str(argument) for argument in arguments]
    variables = dict(text.split("=", 1) for text in texts if text.partition("=")[0] in LAUNCHER)
    return variables, [text for text in texts if text.partition("=")[0] not in LAUNCHER]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    make_models(root)
    return root


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])
def test_bad_input_is_one_line_and_exit_code_2(capsys, monkeypatch, models, tmp_path, case):
    from command import compress

    monkeypatch.chdir(tmp_path)
    make, said = CASES[case]
    variables, arguments = split_variables(make(Place(models, tmp_path)))
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = compress(capsys, *arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 2100, err
    assert "this is a bug" not in err and "Traceback" not in err and said in err, err
    assert sorted(tmp_path.rglob("*")) == before


def print_table() -> None:
    """Every case with its command, exit code and last line, as Markdown."""
    import contextlib
    import io
    import tempfile

    from compressor.cli import run_command

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "sound")
        make_models(root)
        print("| | bad input | command | code | last line |\n|-:|:--|:--|:-:|:--|")
        for number, (case, (make, _)) in enumerate(CASES.items(), 1):
            here = Path(scratch, f"case-{number}")
            here.mkdir()
            os.chdir(here)
            variables, arguments = split_variables(make(Place(root, here)))
            os.environ |= variables
            output, errors = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                code = run_command(arguments)
            for name in variables:
                del os.environ[name]
            short = [" ".join([*(f"{key}={value}" for key, value in variables.items()), "compress", *arguments])]
            short += errors.getvalue().strip().splitlines()[-1:] or ["(nothing)"]
            command, line = (
                text.replace(f"{here}/", "").replace(f"{root}/", "").replace(str(here), ".").replace("|", "\\|")[:300]
                for text in short
            )
            print(f"| {number} | {case} | `{command[:120]}` | {code} | {line} |", flush=True)
        os.chdir(root)


if __name__ == "__main__":
    print_table()

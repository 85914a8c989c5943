"""Which other tools load the exported folders, each tried with the tool itself.

    python -m benchmarks.deploy.loaders --optimum PYTHON --openvino PYTHON --genai PYTHON --transformers-js FOLDER

PYTHON is an interpreter with that tool installed (`pip install "optimum-onnx[onnxruntime]"`, `openvino`, and
`onnxruntime-genai onnx-ir transformers`; their requirements clash with each other's and this project's), FOLDER one in
which `npm install @huggingface/transformers` ran.  A tool that is left out keeps its rows of the table.  Tiny random
models of every task are exported; a tool passes if what it prints is what torch computes: logits or features to 1e-3
of the largest, for int8, int4 and float16 to twice the error that the export reports, or the same greedily generated
tokens.
Writes benchmarks/results/deploy/loaders.json and .md.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from compressor.export.formats import EXPORT_FORMATS
from compressor.export.graphs import outputs_of
from compressor.export.write import write_formats
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import model_class
from compressor.models.tasks.table import find_task
from compressor.recipe import ExportOptions
from compressor.testing.tiny_configs import tiny_config

RESULTS = Path(__file__).parents[1] / "results" / "deploy"
TOOLS = Path(__file__).parent / "tools"
#: Families of `compressor.testing.tiny_configs` that stand for a task.
_FAMILIES = ("vit", "bert", "xlm-roberta", "llama", "gpt2", "t5", "whisper")
#: Formats whose files tools may know by name.
_FORMATS = ("onnx", "onnx-int8", "onnx-uint8", "onnx-int4", "onnx-fp16")
#: Tokens of a prompt, and generated ones.
_PROMPT, _NEW = 7, 8
#: Difference of exact files, relative to the largest value, and room of others over the reported error.
_EXACT, _ROOM = 1e-3, 2.0

Interpreter = Annotated[str | None, typer.Option(help="An interpreter with the tool.")]


def main(
    optimum: Interpreter = None,
    openvino: Interpreter = None,
    genai: Interpreter = None,
    transformers_js: Annotated[str | None, typer.Option(help="A folder with the package.")] = None,
) -> None:
    """Try the tools given, and write the table."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        commands = {
            name: [interpreter, str(TOOLS / f"with_{name}.py"), scratch]
            for name, interpreter in (("optimum", optimum), ("openvino", openvino), ("genai", genai))
            if interpreter is not None
        }
        if transformers_js is not None:
            commands["transformers_js"] = ["node", str(TOOLS / "with_transformers_js.mjs"), scratch, transformers_js]
        found = {name: tried(command) for name, command in commands.items()}
    file = RESULTS / "loaders.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    result = {**before, **found}
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "loaders.md").write_text(page(result), encoding="utf-8")
    typer.echo(page(result))


def prepare(folder: Path) -> None:
    """Export tiny random models, each with its inputs and torch's answers in `expected.json`."""
    for name, model in tiny_models():
        place = folder / name
        model.save_pretrained(place)
        tokenizer().save_pretrained(place)
        task = find_task(model.config).name
        inputs = dummy_inputs(model.config, 2, _PROMPT)
        calibration = [dummy_inputs(model.config, 8, _PROMPT, seed=seed) for seed in range(2)]
        options = ExportOptions(formats=_FORMATS)
        written = write_formats(_FORMATS, model, place, options, calibration=calibration, batch_sizes=(2,))
        files = {
            EXPORT_FORMATS.get(one).suffix: _EXACT
            if EXPORT_FORMATS.get(one).exact
            else _ROOM * made.report.parity.error
            for one, made in written.items()
        }
        expected = {"task": task, "files": files, "inputs": _listed(inputs), **_answers(model, inputs)}
        (place / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


def tiny_models() -> Iterator[tuple[str, PreTrainedModel]]:
    """(name, model) of every task, with random weights that tell classes and tokens apart."""
    for family in _FAMILIES:
        values: dict[str, dict[str, Any]] = {
            # ONNX Runtime's kernel of grouped attention takes heads of 16, 32, ...
            "llama": {"hidden_size": 64, "head_dim": 16},
            # With its own initial scale, it repeats the first token.
            "t5": {"initializer_factor": 1.5},
        }
        config = tiny_config(family, initializer_range=0.2, init_std=0.2, **values.get(family, {}))
        torch.manual_seed(0)
        yield family, model_class(config)._from_config(config).eval()
    base = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        initializer_range=0.2,
    )  # fmt: skip
    for name, kind in (("bert-masked", BertForMaskedLM), ("bert-features", BertModel)):
        base.architectures = [kind.__name__]
        torch.manual_seed(0)
        yield name, kind(base).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 60 words, as some tools save a model's again."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{index}": index for index in range(3, 60)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _answers(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Outputs of torch, or the tokens that it generates."""
    with torch.inference_mode():
        if not model.can_generate():
            return {"outputs": _listed(outputs_of(model, model(**inputs)))}
        given: dict[str, Any] = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
        options: dict[str, Any] = {"max_new_tokens": _NEW, "min_new_tokens": _NEW, "do_sample": False, "num_beams": 1}
        ends = model.generation_config
        about = {"new": _NEW, "start": ends.decoder_start_token_id, "end": ends.eos_token_id}
        return {**about, "generated": cast(Any, model).generate(**given, **options).tolist()}


def _listed(values: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: {"shape": list(value.shape), "values": value.flatten().tolist()} for name, value in values.items()}


def tried(command: list[str]) -> dict[str, Any]:
    """What a tool's script says: its versions, and rows of model, task, call, suffix of the file, and what came out."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1].replace(command[2], "")))


def page(result: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    names = [EXPORT_FORMATS.get(one).suffix for one in _FORMATS]
    lines = [
        "# Which tools load the folders",
        "",
        "Tiny random models of every task, exported by `compressor`, loaded and run by the tool itself: the largest "
        "difference from torch, relative to the largest value, or the share of 8 greedily generated tokens of 2 "
        "prompts, through the cache, that are torch's. **Bold**: other than torch's by more than 1e-3, or than twice "
        "the error that the export reports of a file with less precision; other tokens in float32.",
        "",
        f"| tool | model (task) | call | {' | '.join(_FORMATS)} |",
        f"| :-- | :-- | :-- {'| --: ' * len(names)}|",
    ]
    failures: list[str] = []
    for about in result.values():
        calls: dict[tuple[str, str, str], dict[str, str]] = {}
        for row in about["rows"]:
            calls.setdefault((row["model"], row["task"], row["call"]), {})[row["suffix"]] = row["printed"]
        for (model, task, call), printed in calls.items():
            cells = [_cell(printed.get(name, "–"), failures) for name in names]
            lines.append(f"| {about['tool']} | {model} ({task}) | `{call}` | {' | '.join(cells)} |")
    if failures:
        lines += ["", *(f"[{index}] {text}  " for index, text in enumerate(failures, 1))]
    lines += ["", "Made with `python -m benchmarks.deploy.loaders`.", ""]
    return "\n".join(lines)


def _cell(printed: str, failures: list[str]) -> str:
    """What was printed; an error goes below the table."""
    if not printed.startswith("FAILS"):
        return printed
    error = re.sub(r"\S*/(\w+)_merged\w*\.onnx", r"\1_merged.onnx", printed.removeprefix("FAILS: ").replace("|", "/"))
    if error not in failures:
        failures.append(error)
    return f"**fails** [{failures.index(error) + 1}]"


if __name__ == "__main__":
    typer.run(main)

"""Resident memory of `compress fuse --max-memory` as the system measures it, against what `compress plan` predicts.

    python -m benchmarks.speed.streamed llama-1.1b --layers 2 22 --work FOLDER -o benchmarks/results/speed

Teachers have random weights and lie in bfloat16 shards in FOLDER; calibration texts are random words.  Resident pages
of the command and its children are summed ten times a second: those of its own and those of mapped files, which
the system may drop.  Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.speed.settings import SIZES
from compressor.models.configs.reading import model_class

#: Words of the tokenizer, and of the text per sample that is read.
WORDS, TEXTS_PER_SAMPLE = 2000, 3
#: What the command leaves out with --max-memory.
BARE = ("--no-finetune", "--no-onnx", "--no-latency", "--eval-samples", "8")
#: Seconds between two looks at the memory.
INTERVAL = 0.1


def make_teacher(folder: Path, config: PretrainedConfig, seed: int) -> None:
    """Write a random bfloat16 model in shards, with a tokenizer of plain words."""
    words = {"<unk>": 0, "</s>": 1, **{f"w{index}": index for index in range(2, WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.manual_seed(seed)
        config.dtype = torch.bfloat16
        model: PreTrainedModel = model_class(config)(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="500MB")


def make_text(path: Path, samples: int, length: int) -> None:
    """Write random words, enough for the samples and an evaluation."""
    draw = torch.Generator().manual_seed(3)
    lines = torch.randint(2, WORDS, (TEXTS_PER_SAMPLE * samples + 200, length), generator=draw)
    path.write_text("\n".join(" ".join(f"w{word}" for word in line) for line in lines.tolist()), encoding="utf-8")


def measured_command(command: list[str]) -> dict[str, Any]:
    """Run a command: its peaks of resident bytes (all, its own pages, mapped files) and processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = dict.fromkeys(("VmRSS", "RssAnon", "RssFile"), 0)
    while process.poll() is None:
        statuses = [_status(pid) for pid in _with_children(process.pid)]
        for name in peaks:
            peaks[name] = max(peaks[name], sum(status.get(name, 0) for status in statuses))
        time.sleep(INTERVAL)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return {"resident": peaks["VmRSS"], "own": peaks["RssAnon"], "mapped": peaks["RssFile"], "seconds": seconds}


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return
    for child in children:
        yield from _with_children(int(child))


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = (line.partition(":") for line in lines)
    return {key: 1024 * int(value.split()[0]) for key, _, value in fields if value.endswith("kB")}


def measure(given: argparse.Namespace, layers: int) -> dict[str, Any]:
    """One depth: prediction and measurement."""
    text = given.work / "text.txt"
    make_text(text, given.samples, given.length)
    teachers = [given.work / f"{given.size}-{layers}-{name}" for name in "ab"]
    for seed, folder in enumerate(teachers):
        if not (folder / "config.json").exists():
            config = SIZES[given.size].config()
            config.num_hidden_layers = layers
            make_teacher(folder, config, seed)
    compress = [sys.executable, "-m", "compressor"]
    names = [str(folder) for folder in teachers]
    planned = subprocess.run([*compress, "plan", *names, "--json"], capture_output=True, text=True, check=True)
    streamed = json.loads(planned.stdout)["memory"]["streamed"]
    output = given.work / f"student-{layers}"
    command = [
        *compress, "fuse", *names, "-d", str(text), "-o", str(output), "--force", "--samples", str(given.samples),
        "--max-length", str(given.length), "--max-memory", given.max_memory, *BARE, *given.options,
    ]  # fmt: skip
    hidden = given.samples * given.length * streamed["per_token"]
    predicted = max(streamed["fixed"], streamed["layer"] + hidden)
    return {"layers": layers, "predicted": predicted, **measured_command(command)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=[name for name in SIZES if name.startswith("llama")])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--max-memory", default="6GB")
    parser.add_argument("--work", type=Path, required=True, help="folder for teachers and students")
    parser.add_argument("-o", "--output", type=Path, help="folder for the figures")
    parser.add_argument("options", nargs="*", help="of compress fuse, after --")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for layers in given.layers:
        rows.append(measure(given, layers))
        print(json.dumps(rows[-1]), flush=True)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        figures = {"size": given.size, "samples": given.samples, "length": given.length, "options": given.options}
        text = json.dumps({**figures, "runs": rows}, indent=1) + "\n"
        (given.output / f"streamed-{given.size}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Build a model for ONNX Runtime GenAI from every causal folder, and generate with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from common import FULL, arrays, attempt, models_in, report, same_tokens


def built(folder: Path, expected: dict[str, Any], precision: str) -> str:
    """What the built model generates."""
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", target]
        done = subprocess.run([*command, "-p", precision, "-e", "cpu"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(" ".join(done.stderr.split())[-200:])
        model = genai.Model(target)
        parameters = genai.GeneratorParams(model)
        ids, count = arrays(expected["inputs"])["input_ids"], expected["new"]
        options = {"max_length": ids.shape[1] + count, "min_length": ids.shape[1] + count}
        parameters.set_search_options(do_sample=False, batch_size=len(ids), **options)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(ids.astype(np.int32))
        for _ in range(count):
            generator.generate_next_token()
        found = np.array([generator.get_sequence(index) for index in range(len(ids))])
        return same_tokens(found, np.array(expected["generated"]), count, FULL + (precision != "fp32"))


def main() -> None:
    """Print all rows."""
    rows = []
    for folder, expected in models_in(sys.argv[1]):
        if expected["task"] != "causal-lm":
            continue
        for precision, suffix in (("fp32", ""), ("int4", "_q4")):
            printed = attempt(partial(built, folder, expected, precision))
            row = {"model": folder.name, "task": expected["task"], "call": "models.builder -i folder -e cpu"}
            rows.append({**row, "suffix": suffix, "printed": printed})
    report(("onnxruntime-genai", "onnxruntime"), rows)


if __name__ == "__main__":
    main()

"""Load every folder with optimum's ORTModel classes."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arrays, attempt, compared, models_in, report, same_tokens
from optimum import onnxruntime as optimum

_CLASSES = {
    "image-classification": "ORTModelForImageClassification",
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "masked-lm": "ORTModelForMaskedLM",
    "features": "ORTModelForFeatureExtraction",
    "causal-lm": "ORTModelForCausalLM",
    "seq2seq-lm": "ORTModelForSeq2SeqLM",
}


def ran(folder: Path, expected: dict[str, Any], kind: str, options: dict[str, str], allowed: float) -> str:
    """What the class computes or generates."""
    model = getattr(optimum, kind).from_pretrained(folder, **options)
    inputs = {name: torch.from_numpy(value) for name, value in arrays(expected["inputs"]).items()}
    inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    if "generated" in expected:
        count = expected["new"]
        tokens = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, num_beams=1)
        return same_tokens(tokens.numpy(), np.array(expected["generated"]), count, allowed)
    name, wanted = next(iter(arrays(expected["outputs"]).items()))
    return compared(model(**inputs)[name].numpy(), wanted, allowed)


def files(task: str, suffix: str) -> dict[str, str]:
    """Options that name files which are not loaded by default; a decoder by name needs one with past by name."""
    if task != "seq2seq-lm":
        return {"file_name": f"model{suffix}.onnx"}
    decoder = f"decoder_model_merged{suffix}.onnx"
    names = {"decoder_file_name": decoder, "decoder_with_past_file_name": decoder}
    return {"encoder_file_name": f"encoder_model{suffix}.onnx", **names}


def main() -> None:
    """Print all rows."""
    rows = []
    for folder, expected in models_in(sys.argv[1]):
        kind = _CLASSES[expected["task"]]
        if "input_features" in expected["inputs"]:
            kind = "ORTModelForSpeechSeq2Seq"
        for suffix, allowed in expected["files"].items():
            options = files(expected["task"], suffix) if suffix else {}
            printed = attempt(partial(ran, folder, expected, kind, options, allowed))
            row = {"model": folder.name, "task": expected["task"], "call": f"{kind}.from_pretrained(folder)"}
            rows.append({**row, "suffix": suffix, "printed": printed})
    report(("optimum-onnx", "transformers", "onnxruntime"), rows)


if __name__ == "__main__":
    main()

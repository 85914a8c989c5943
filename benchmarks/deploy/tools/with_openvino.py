"""Read every ONNX file with OpenVINO, and run it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from common import arrays, attempt, compared, models_in, report, same_tokens

#: On processors with bfloat16 it would compute in that.
_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def ran(paths: list[Path], expected: dict[str, Any], allowed: float) -> str:
    """What OpenVINO computes or generates."""
    core = openvino.Core()
    compiled = [core.compile_model(core.read_model(path), "CPU", _FLOAT32) for path in paths]
    inputs = arrays(expected["inputs"])
    if len(compiled) > 1:
        decoder, encoder = compiled
        ids = translated(encoder, decoder, inputs, expected)
        return same_tokens(ids, np.array(expected["generated"])[:, -ids.shape[1] :], expected["new"], allowed)
    if "generated" in expected:
        ids = generated(compiled[0], inputs["input_ids"], expected["new"], expected["end"])
        return same_tokens(ids, np.array(expected["generated"]), expected["new"], allowed)
    if "input_ids" in inputs:
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    found = compiled[0]({name: inputs[name] for name in names(compiled[0])})
    name, wanted = next(iter(arrays(expected["outputs"]).items()))
    return compared(np.asarray(found[name]), wanted, allowed)


def names(compiled: Any) -> dict[str, Any]:
    """{name: input}; a cast to float16 has added names of its own."""
    return {min(port.names, key=lambda name: name.startswith("graph_input_cast")): port for port in compiled.inputs}


def generated(compiled: Any, ids: np.ndarray, count: int, end: int) -> np.ndarray:
    """The prompts and greedily generated tokens, through the cache, none of them the end of a text."""
    read = names(compiled)
    past = {
        name: np.zeros((len(ids), *(port.partial_shape[i].get_min_length() for i in (1, 2, 3))), np.float32)
        for name, port in read.items()
        if name.startswith("past")
    }
    new = ids
    for _ in range(count):
        begin = ids.shape[1] - new.shape[1]
        positions = np.broadcast_to(np.arange(begin, ids.shape[1]), new.shape)
        feed = {"input_ids": new, "attention_mask": np.ones_like(ids), "position_ids": positions.copy(), **past}
        found = compiled({name: value for name, value in feed.items() if name in read})
        logits = np.array(found["logits"])[:, -1:]
        logits[..., end] = -np.inf
        new = logits.argmax(-1)
        past = {name: np.array(found[name.replace("past_key_values", "present")]) for name in past}
        ids = np.concatenate([ids, new], 1)
    return ids


def translated(encoder: Any, decoder: Any, inputs: dict[str, np.ndarray], expected: dict[str, Any]) -> np.ndarray:
    """The greedily generated tokens of an encoder and its merged decoder, through the cache, without the first."""
    hidden = np.array(encoder({name: inputs[name] for name in names(encoder)})["last_hidden_state"])
    read = names(decoder)
    past = {name: np.zeros((len(hidden), 1, 0, 1), np.float32) for name in read if name.startswith("past")}
    ids = new = np.full((len(hidden), 1), expected["start"])
    for step in range(expected["new"]):
        feed = {"input_ids": new, "encoder_hidden_states": hidden, "use_cache_branch": np.array([step > 0]), **past}
        if "attention_mask" in inputs:
            feed["encoder_attention_mask"] = inputs["attention_mask"]
        found = decoder({name: value for name, value in feed.items() if name in read})
        logits = np.array(found["logits"])[:, -1:]
        logits[..., expected["end"]] = -np.inf
        new = logits.argmax(-1)
        ids = np.concatenate([ids, new], 1)
        # Those of the encoder are of the first call.
        past |= {
            name: np.array(found[name.replace("past_key_values", "present")])
            for name in past
            if not (step and ".encoder." in name)
        }
    return ids[:, 1:]


def main() -> None:
    """Print all rows."""
    rows = []
    for folder, expected in models_in(sys.argv[1]):
        for suffix, allowed in expected["files"].items():
            others = [end for end in expected["files"] if len(end) > len(suffix)]
            paths = [
                path
                for path in sorted((folder / "onnx").glob(f"*{suffix}.onnx"))
                if not any(path.stem.endswith(end) for end in others if end.endswith(suffix))
            ]
            printed = attempt(partial(ran, paths, expected, allowed))
            row = {"model": folder.name, "task": expected["task"], "call": "compile_model(read_model(file))"}
            rows.append({**row, "suffix": suffix, "printed": printed})
    report(("openvino",), rows)


if __name__ == "__main__":
    main()

"""How the folder `onnx` of a model is run with onnxruntime alone, in ten lines without torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.models.bounds import CONFIG_BYTES
from compressor.utils.input_files import read_json

_IMAGE = """\
import json, sys
import numpy as np, onnxruntime
from PIL import Image

p = json.load(open("onnx/preprocessor_config.json"))
image = Image.open(sys.argv[1]).convert("{mode}"){resize}
x = {pixels}
session = onnxruntime.InferenceSession("onnx/{file}")
logits = session.run(["logits"], {{"pixel_values": x{channels}[None].astype(np.float32)}})[0]
print(json.load(open("onnx/config.json"))["id2label"][str(logits[0].argmax())])
"""
_TEXT = """\
import json, sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer

code = Tokenizer.from_file("onnx/tokenizer.json").encode(*sys.argv[1:])
x = {{"input_ids": code.ids, "attention_mask": code.attention_mask, "token_type_ids": code.type_ids}}
session = onnxruntime.InferenceSession("onnx/{file}")
feed = {{i.name: np.array([x[i.name]], np.int64) for i in session.get_inputs()}}
logits = session.run(["logits"], feed)[0]
{last}
"""
_CLASS = 'print(json.load(open("onnx/config.json"))["id2label"][str(logits[0].argmax())])'
#: Task -> what is made of the logits.
_LAST = {
    "text-classification": _CLASS,
    "token-classification": 'names = json.load(open("onnx/config.json"))["id2label"]\n'
    "print([(word, names[str(i)]) for word, i in zip(code.tokens, logits[0].argmax(-1))])",
    "masked-lm": 'print(Tokenizer.from_file("onnx/tokenizer.json").decode(logits[0].argmax(-1).tolist()))',
    "causal-lm": 'print(Tokenizer.from_file("onnx/tokenizer.json").decode([int(logits[0, -1].argmax())]))',
}
#: What the image example does, and nothing else: a preprocessor that does more has none.
_KNOWN = {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"}


def onnx_example(folder: str | Path, task: str, file: str = "model.onnx") -> str | None:
    """A program that answers for a picture, a text or a pair of texts on the command line, to be run where `onnx` is.

    Args:
        folder: the one that holds `onnx`, with its preprocessor or tokenizer.
        task: one of the values of `compressor.models.inputs.TASKS`.
        file: which one is run.

    Returns:
        None where there is no such file, or where its inputs cannot be made in so few lines.
    """
    onnx = Path(folder) / "onnx"
    if not (onnx / file).is_file():
        return None
    if task == "image-classification":
        found = _read(onnx / "preprocessor_config.json")
        channels = _read(onnx / "config.json").get("num_channels", 3)
        return _image(found, channels, file) if found else None
    if task in _LAST and (onnx / "tokenizer.json").is_file():
        return _TEXT.format(file=file, last=_LAST[task])
    return None


def _image(found: Mapping[str, Any], channels: int, file: str) -> str | None:
    size, done = found.get("size") or {}, {key for key, value in found.items() if key.startswith("do_") and value}
    if done - _KNOWN or channels not in (1, 3) or ("do_resize" in done and not {"height", "width"} <= size.keys()):
        return None
    resize = f'.resize((p["size"]["width"], p["size"]["height"]), {int(found.get("resample", 2))})'
    pixels = "np.asarray(image, np.float32)"
    if "do_rescale" in done:
        pixels += ' * p["rescale_factor"]'
    if "do_normalize" in done:
        pixels = f'({pixels} - p["image_mean"]) / p["image_std"]'
    return _IMAGE.format(
        mode="RGB" if channels == 3 else "L",
        resize=resize if "do_resize" in done else "",
        pixels=pixels,
        file=file,
        channels=".transpose(2, 0, 1)" if channels == 3 else "[None]",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path, CONFIG_BYTES))
    except (OSError, ValueError, UserError):
        return {}

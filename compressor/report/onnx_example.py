"""A short program that needs only onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.models.configs.bounds import CONFIG_BYTES
from compressor.utils.input_files import read_json

_IMAGE = """\
import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

p, image = json.load(open("onnx/preprocessor_config.json")), ImageOps.exif_transpose(Image.open(sys.argv[1]))
assert image.mode[0] not in "IF", "convert() would cut values of more than 8 bits off: scale them to 0..255 first"
x = {pixels}
session = onnxruntime.InferenceSession("onnx/{file}")
{run}, {{"pixel_values": x{channels}[None].astype(np.float32)}}){first}
{last}
"""
_TEXT = """\
import json, sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer

code = Tokenizer.from_file("onnx/tokenizer.json").encode(*sys.argv[1:])
x = {{"input_ids": code.ids, "attention_mask": code.attention_mask, "token_type_ids": code.type_ids}}
session = onnxruntime.InferenceSession("onnx/{file}")
feed = {{i.name: np.array([x[i.name]], np.int64) for i in session.get_inputs()}}
{run}
{last}
"""
_SENTENCES = """\
import sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer

session, tokenizer = onnxruntime.InferenceSession("onnx/{file}"), Tokenizer.from_file("onnx/tokenizer.json")
tokenizer.no_padding()


def embed(text):
    code = tokenizer.encode(text)
    x = {{"input_ids": code.ids, "attention_mask": code.attention_mask, "token_type_ids": code.type_ids}}
    feed = {{i.name: np.array([x[i.name]], np.int64) for i in session.get_inputs()}}
    vector = session.run(["sentence_embedding"], feed)[0][0]
    return vector / np.linalg.norm(vector)


print([(text, round(float(embed(sys.argv[1]) @ embed(text)), 3)) for text in sys.argv[1:]])
"""
_CHOICES = """\
import sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer

tokenizer, choices = Tokenizer.from_file("onnx/tokenizer.json"), sys.argv[2:]
tokenizer.enable_padding()
codes = tokenizer.encode_batch([(sys.argv[1], choice) for choice in choices])
x = {{"input_ids": [c.ids for c in codes], "attention_mask": [c.attention_mask for c in codes],
     "token_type_ids": [c.type_ids for c in codes]}}
session = onnxruntime.InferenceSession("onnx/{file}")
feed = {{i.name: np.array([x[i.name]], np.int64) for i in session.get_inputs()}}
print(choices[session.run(["logits"], feed)[0][0].argmax()])
"""
_LOGITS = 'logits = session.run(["logits"], feed)[0]'
_SPAN = 'start, end = session.run(["start_logits", "end_logits"], feed)'
_ANSWER = """\
text = [i for i, part in enumerate(code.sequence_ids) if part == 1]
first, last = max(((i, j) for i in text for j in text if i <= j < i + 30), key=lambda p: start[0, p[0]] + end[0, p[1]])
print(sys.argv[2][code.offsets[first][0] : code.offsets[last][1]])"""
_CAUSAL = """\
import sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("onnx/tokenizer.json")
session, ids, new, past = onnxruntime.InferenceSession("onnx/{file}"), [], tokenizer.encode(sys.argv[1]).ids, {{}}
for i in session.get_inputs():
    if i.name.startswith("past"):
        past[i.name] = np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
for _ in range(20):
    ids += new
    now = new if past else ids
    x = {{"input_ids": now, "attention_mask": [1] * len(ids), "position_ids": range(len(ids) - len(now), len(ids))}}
    feed = {{i.name: np.array([x[i.name]], np.int64) for i in session.get_inputs() if i.name in x}}
    logits, *present = session.run(None, {{**feed, **past}})
    past, new = dict(zip(past, present)), [int(logits[0, -1].argmax())]
print(tokenizer.decode(ids + new))
"""
_CLASS = 'print(json.load(open("onnx/config.json"))["id2label"][str(logits[0].argmax())])'
_LABELS = (
    'names = json.load(open("onnx/config.json"))["id2label"]\n'
    "print([names[str(i)] for i, logit in enumerate(logits[0]) if logit > 0])"
)
_VALUES = (
    'names = json.load(open("onnx/config.json"))["id2label"]\n'
    "print({names[str(i)]: float(value) for i, value in enumerate(logits[0])})"
)
_PIXELS = (
    'names, found = json.load(open("onnx/config.json"))["id2label"], logits[0].argmax(0)\n'
    'print({names[str(i)]: f"{(found == i).mean():.1%}" for i in np.unique(found)})'
)
_BOXES = (
    'names = json.load(open("onnx/config.json"))["id2label"]\n'
    "chances = np.exp(logits[0] - logits[0].max(-1, keepdims=True))\n"
    "chances /= chances.sum(-1, keepdims=True)\n"
    "for (x, y, w, h), chance in zip(boxes[0] * ([image.width, image.height] * 2), chances[:, :-1]):\n"
    "    if chance.max() > 0.5:\n"
    "        print(names[str(chance.argmax())], [round(float(v)) for v in (x - w / 2, y - h / 2, w, h)])"
)
#: {task: code that prints the prediction}.
_LAST = {
    **dict.fromkeys(("image-classification", "text-classification"), _CLASS),
    **dict.fromkeys(("image-multi-label", "text-multi-label"), _LABELS),
    **dict.fromkeys(("image-regression", "text-regression"), _VALUES),
    "semantic-segmentation": _PIXELS,
    "object-detection": _BOXES,
    "question-answering": _ANSWER,
    "token-classification": 'names = json.load(open("onnx/config.json"))["id2label"]\n'
    "print([(word, names[str(i)]) for word, i in zip(code.tokens, logits[0].argmax(-1))])",
    "masked-lm": 'print(Tokenizer.from_file("onnx/tokenizer.json").decode(logits[0].argmax(-1).tolist()))',
}
#: {task: its program, where the others' has no place for it}.
_PROGRAMS = {"causal-lm": _CAUSAL, "multiple-choice": _CHOICES, "sentence-embedding": _SENTENCES}
#: Other tasks of images.
_OF_IMAGES = ("semantic-segmentation", "object-detection")
#: Steps of an image processor that the example covers, or that are about labels alone.
_SUPPORTED = {
    "do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels", "do_convert_annotations",
}  # fmt: skip


def onnx_example(folder: str | Path, task: str, file: str = "model.onnx") -> str | None:
    """A program that predicts for an image, a text or a pair of texts; None for other files and tasks."""
    onnx = Path(folder) / "onnx"
    if not (onnx / file).is_file():
        return None
    if task.startswith("image-") or task in _OF_IMAGES:
        preprocessor = _read(onnx / "preprocessor_config.json")
        channels = _read(onnx / "config.json").get("num_channels", 3)
        return _image_example(preprocessor, channels, file, task) if preprocessor else None
    if task in _PROGRAMS and (onnx / "tokenizer.json").is_file():
        return _PROGRAMS[task].format(file=file)
    if task in _LAST and (onnx / "tokenizer.json").is_file():
        return _TEXT.format(file=file, run=_SPAN if task == "question-answering" else _LOGITS, last=_LAST[task])
    return None


def _image_example(preprocessor: Mapping[str, Any], channels: int, file: str, task: str) -> str | None:
    size = preprocessor.get("size") or {}
    steps = {key for key, value in preprocessor.items() if key.startswith("do_") and value}
    boxes = task == "object-detection"
    if boxes and not preprocessor.get("pad_size"):
        # Images of a batch are padded to the largest.
        steps -= {"do_pad"}
    if (
        steps - _SUPPORTED
        or channels not in (1, 3)
        or ("do_resize" in steps and not {"height", "width"} <= size.keys())
    ):
        return None
    resize = f'.resize((p["size"]["width"], p["size"]["height"]), {int(preprocessor.get("resample", 2))})'
    mode = "RGB" if channels == 3 else "L"
    pixels = f'np.asarray(image.convert("{mode}"){resize if "do_resize" in steps else ""}, np.float32)'
    if "do_rescale" in steps:
        pixels += ' * p["rescale_factor"]'
    if "do_normalize" in steps:
        pixels = f'({pixels} - p["image_mean"]) / p["image_std"]'
    return _IMAGE.format(
        pixels=pixels,
        file=file,
        run='logits, boxes = session.run(["logits", "pred_boxes"]' if boxes else 'logits = session.run(["logits"]',
        first="" if boxes else "[0]",
        last=_LAST[task],
        channels=".transpose(2, 0, 1)" if channels == 3 else "[None]",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path, CONFIG_BYTES))
    except (OSError, ValueError, UserError):
        return {}

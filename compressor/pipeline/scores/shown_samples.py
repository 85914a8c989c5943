"""Samples for a page: small pictures and short texts, made from model inputs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from compressor.models.tasks.task import Task
from compressor.pipeline.scores.differences import Disagreement
from compressor.utils.strict_json import finite_or_none

#: Most characters of a text, and most pixels along a picture's side.
TEXT_CHARACTERS, PICTURE_PIXELS = 200, 96
#: Tokens shown on either side of the one in question.
_CONTEXT = 40


def sample_report(sample: Disagreement, task: Task, processor: Any, class_names: Mapping[int, str]) -> dict[str, Any]:
    """A sample as in report.json: what the model reads, and both answers."""
    tokens = sample.inputs.get("decoder_input_ids", sample.inputs.get("input_ids"))

    def answer(index: int) -> str:
        return class_names.get(index, str(index)) if task.columns else processor.decode([index])

    return {
        "sample": sample.index,
        "picture": _picture(sample.inputs["pixel_values"], processor) if "pixel_values" in sample.inputs else None,
        "text": None if tokens is None or "pixel_values" in sample.inputs else _text(sample, tokens, task, processor),
        "token": None if sample.position is None or tokens is None or _predicts_next(task) else
        processor.decode([int(tokens[sample.position])]),
        "label": None if sample.label is None else answer(sample.label),
        "ensemble": {"answer": answer(sample.ensemble[0]), "probability": sample.ensemble[1]},
        "student": {"answer": answer(sample.student[0]), "probability": sample.student[1]},
        "kl": finite_or_none(sample.kl),
    }  # fmt: skip


def _predicts_next(task: Task) -> bool:
    """Whether an answer is the next token, which the model does not read."""
    return task.shift or task.mask == "decoder_attention_mask"


def _text(sample: Disagreement, tokens: Tensor, task: Task, processor: Any) -> str:
    """At most 200 characters: from the start, or around the token in question; up to it if the next one is."""
    position = sample.position
    if position is None:
        mask = sample.inputs.get("attention_mask")
        shown = tokens if mask is None else tokens[mask.bool()]
        text = " ".join(processor.decode(shown, skip_special_tokens=True).split())
        return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"
    following = _predicts_next(task)
    if (mask := sample.inputs.get(task.mask or "")) is not None:
        tokens = tokens[: int(mask.nonzero().max()) + 1]
    start, end = max(0, position - _CONTEXT), position + (1 if following else _CONTEXT)
    text = " ".join(processor.decode(tokens[start:end], skip_special_tokens=following).split())
    if len(text) <= TEXT_CHARACTERS:
        return ("…" if start else "") + text[: TEXT_CHARACTERS - 1]
    return "…" + text[1 - TEXT_CHARACTERS :]


def _picture(pixels: Tensor, processor: Any) -> str:
    """Pixels [C, H, W] without the preprocessor's normalisation, as the data URL of a PNG."""
    mean, deviation = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
    if mean is not None and deviation is not None and getattr(processor, "do_normalize", True):
        shape = (-1, 1, 1)
        pixels = pixels * torch.tensor(deviation).view(shape) + torch.tensor(mean).view(shape)
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(levels[0].numpy() if len(levels) < 3 else levels[:3].permute(1, 2, 0).numpy())
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

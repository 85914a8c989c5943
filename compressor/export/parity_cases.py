"""Cases of the parity check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from compressor.export.graphs import forward_names, no_cache, outputs_of, takes_any_size
from compressor.export.runtime import Runnable
from compressor.export.two_part_graphs import source_inputs
from compressor.models.inputs import dummy_inputs, text_config
from compressor.models.meta import as_pair
from compressor.models.tasks.table import task_of_model
from compressor.models.tasks.task import Task

#: Tokens of the text inputs that are compared.
LENGTHS = (16, 7)
#: Tokens of consecutive calls with a cache; the first call has an empty past.
STEP_SIZES = ((1, 1, 1), (5, 1, 1), (9, 3, 1))
#: Padding of the first sample, up to half of its tokens; other samples have none.
PADDINGS = ("none", "right", "left")

MODEL = "model.onnx"
ENCODER, DECODER, DECODER_STEP = "encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"
#: Both decoders in one file.
DECODER_MERGED = "decoder_model_merged.onnx"

Files = Mapping[str, Runnable]


@dataclass(frozen=True)
class OutputPair:
    """One output of torch and of the file; the samples [B] or positions [B, T] that count."""

    name: str
    expected: Tensor
    given: Tensor
    counted: Tensor | None


@dataclass(frozen=True)
class ParityTrial:
    """One input and its outputs; `steps`: tokens of consecutive calls."""

    batch: int
    length: int | None
    padding: str
    steps: tuple[int, ...]
    inputs: str
    pairs: tuple[OutputPair, ...]


def whole_model_cases(files: Files, model: PreTrainedModel, batch: int, seed: int) -> Iterator[ParityTrial]:
    """Whole models, over lengths and paddings."""
    sources = list(_sources(model.config, batch, seed))
    if takes_any_size(model):
        sources += [(length, padding, _taller(inputs)) for length, padding, inputs in sources]
    for length, padding, inputs in sources:
        with torch.inference_mode():
            output = model(**inputs, **no_cache(model), return_dict=True)
        expected = outputs_of(model, output)
        counted = _counted(model, inputs, padding, expected)
        if any(counts is None or counts.any() for counts in counted.values()):
            yield _trial(files[MODEL], inputs, length, padding, expected, counted)


def encoder_cases(files: Files, model: PreTrainedModel, batch: int, seed: int) -> Iterator[ParityTrial]:
    """Encoders, over lengths and paddings."""
    for length, padding, inputs in _sources(model.config, batch, seed):
        with torch.inference_mode():
            output = model.get_encoder()(**inputs, return_dict=True).last_hidden_state
        counted = {"last_hidden_state": inputs.get("attention_mask")}
        yield _trial(files[ENCODER], inputs, length, padding, {"last_hidden_state": output}, counted)


def step_cases(files: Files, model: PreTrainedModel, batch: int, seed: int) -> Iterator[ParityTrial]:
    """Causal models with past; torch with a cache and without."""
    session = files[MODEL]
    for steps in STEP_SIZES:
        for padding in PADDINGS if steps[0] > 1 else PADDINGS[:1]:
            inputs = dummy_inputs(model.config, batch, sum(steps), seed=seed)
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            _pad(model.config, inputs, padding, steps[0])
            mask = inputs["attention_mask"]
            if forward_names(model, "position_ids"):
                inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
            with torch.inference_mode():
                full = model(**inputs, use_cache=False, return_dict=True).logits
            pairs, cache, past = [], None, session.empty_past(batch)
            for begin, end in _spans(steps):
                part = {
                    name: value[:, :end] if name == "attention_mask" else value[:, begin:end]
                    for name, value in inputs.items()
                }
                with torch.inference_mode():
                    output = model(**part, past_key_values=cache, use_cache=True, return_dict=True)
                given = session.run({**part, **past})
                cache, past = output.past_key_values, past_of(given)
                for expected in (full[:, begin:end], output.logits):
                    pairs.append(OutputPair("logits", expected, given["logits"], mask[:, begin:end]))
            yield ParityTrial(batch, sum(steps), padding, steps, _shapes(inputs), tuple(pairs))


def decoder_cases(files: Files, model: PreTrainedModel, batch: int, seed: int) -> Iterator[ParityTrial]:
    """Decoders after their encoder, over lengths and paddings."""
    for index, (_, padding, source) in enumerate(_sources(model.config, batch, seed)):
        yield _chain(files, model, source, padding, (LENGTHS[index % len(LENGTHS)] - 2,), seed)


def decoder_step_cases(files: Files, model: PreTrainedModel, batch: int, seed: int) -> Iterator[ParityTrial]:
    """Decoders with past, after encoder and first call."""
    sources = list(_sources(model.config, batch, seed))
    for index in range(max(len(sources), len(STEP_SIZES))):
        _, padding, source = sources[index % len(sources)]
        yield _chain(files, model, source, padding, STEP_SIZES[index % len(STEP_SIZES)], seed)


def merged_cases(files: Files, model: PreTrainedModel, batch: int, seed: int) -> Iterator[ParityTrial]:
    """Merged decoders: first calls, and several in a row."""
    yield from decoder_cases(files, model, batch, seed)
    yield from decoder_step_cases(files, model, batch, seed)


def _decoder(files: Files, past: bool) -> Runnable:
    """The file that takes a first call, or one with past."""
    return files[DECODER_MERGED] if DECODER_MERGED in files else files[DECODER_STEP if past else DECODER]


def _chain(
    files: Files, model: PreTrainedModel, source: dict[str, Tensor], padding: str, steps: tuple[int, ...], seed: int
) -> ParityTrial:
    batch = len(next(iter(source.values())))
    ids = dummy_inputs(model.config, batch, sum(steps) + 8, seed=seed)["decoder_input_ids"][:, : sum(steps)]
    mask = {"attention_mask": source["attention_mask"]} if "attention_mask" in source else {}
    file_mask = {"encoder_attention_mask": source["attention_mask"]} if mask else {}
    hidden = files[ENCODER].run(source)["last_hidden_state"]
    with torch.inference_mode():
        full = outputs_of(model, model(**source, decoder_input_ids=ids, use_cache=False, return_dict=True))
        encoded = BaseModelOutput(last_hidden_state=model.get_encoder()(**source, return_dict=True).last_hidden_state)
    (name,) = full
    pairs: list[OutputPair] = []
    cache: Any = None
    past: dict[str, Tensor] = {}
    for begin, end in _spans(steps):
        with torch.inference_mode():
            output = model(
                encoder_outputs=encoded, decoder_input_ids=ids[:, begin:end], past_key_values=cache, use_cache=True,
                return_dict=True, **mask,
            )  # fmt: skip
        given = _decoder(files, bool(past)).run(
            {"input_ids": ids[:, begin:end], "encoder_hidden_states": hidden, **file_mask, **past}
        )
        cache = output.past_key_values
        # Only the first call returns the encoder's keys and values.
        past |= {name: value for name, value in past_of(given).items() if name not in past or ".decoder." in name}
        for expected in (full[name][:, begin:end], outputs_of(model, output)[name]):
            pairs.append(OutputPair(name, expected, given[name], None))
    shapes = _shapes({**source, "decoder_input_ids": ids})
    return ParityTrial(batch, sum(steps), padding, steps if len(steps) > 1 else (), shapes, tuple(pairs))


def _sources(config: PretrainedConfig, batch: int, seed: int) -> Iterator[tuple[int | None, str, dict[str, Tensor]]]:
    """(length, padding, inputs); only text has several."""
    for length in LENGTHS:
        inputs = as_pair(config, source_inputs(dummy_inputs(config, batch, length, seed=seed)))
        if "input_ids" not in inputs:
            yield None, "none", inputs
            return
        for padding in PADDINGS:
            padded = {name: value.clone() for name, value in inputs.items()}
            _pad(config, padded, padding, length)
            yield length, padding, padded


def _taller(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Images of twice the height."""
    pixels = inputs["pixel_values"]
    return {**inputs, "pixel_values": torch.cat([pixels, pixels.flip(-2)], dim=-2)}


def _pad(config: PretrainedConfig, inputs: dict[str, Tensor], padding: str, length: int) -> None:
    """Pad the first sample within `length` tokens, in place."""
    if padding == "none":
        return
    config = text_config(config)
    pad = getattr(config, "pad_token_id", None)
    where = slice(length - length // 2, length) if padding == "right" else slice(0, length // 2)
    last = inputs["input_ids"][0, ..., length - 1].clone()
    inputs["input_ids"][0, ..., where] = pad if isinstance(pad, int) and 0 <= pad < config.vocab_size else 0
    inputs["attention_mask"][0, ..., where] = 0
    if padding == "right" and getattr(config, "eos_token_id", None) == last.flatten()[0]:
        # Classifiers among encoder–decoders answer at the end token.
        inputs["input_ids"][0, ..., length - length // 2 - 1] = last


def _counted(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], padding: str, expected: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    """{output: positions [B, T] or samples [B] that count; None: all}."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return dict.fromkeys(expected)
    least = 2 if task_of_model(model).by_token else 3
    by_token = {name: value.ndim >= least and value.shape[:2] == mask.shape for name, value in expected.items()}
    counted: dict[str, Tensor | None] = {name: mask if by_token[name] else None for name in expected}
    if padding == "left" and not all(by_token.values()):
        # Models that pool the first token expect no padding there; on it, torch and ONNX Runtime may differ.  The
        # outputs of such samples change with the tokens under the padding.
        ids = torch.where(mask.bool(), inputs["input_ids"], inputs["input_ids"].flatten()[-2])
        with torch.inference_mode():
            output = model(**{**inputs, "input_ids": ids}, **no_cache(model), return_dict=True)
        for name, value in outputs_of(model, output).items():
            if not by_token[name]:
                counted[name] = (value == expected[name]).flatten(1).all(1)
    return counted


def _trial(
    session: Runnable,
    inputs: dict[str, Tensor],
    length: int | None,
    padding: str,
    expected: Mapping[str, Tensor],
    counted: Mapping[str, Tensor | None],
) -> ParityTrial:
    given = session.run(inputs)
    pairs = [
        OutputPair(name, value, given[name], counts)
        for name, value in expected.items()
        if (counts := counted[name]) is None or counts.any()
    ]
    batch = len(next(iter(inputs.values())))
    return ParityTrial(batch, length, padding, (), _shapes(inputs), tuple(pairs))


def _spans(steps: Sequence[int]) -> list[tuple[int, int]]:
    return [(sum(steps[:index]), sum(steps[: index + 1])) for index in range(len(steps))]


def past_of(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.replace("present", "past_key_values"): v for n, v in given.items() if n.startswith("present.")}


def _shapes(inputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items() if "mask" not in name)


def logits_of_files(files: Files, task: Task, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits of the files of a task's model for a batch, without past."""
    if MODEL not in files:
        return decoder_logits(files, inputs)
    logits = task.logits(files[MODEL].run(inputs), inputs)
    assert logits is not None
    return logits


def decoder_logits(files: Files, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits of the files of an encoder and its decoder for a batch, without past."""
    given = {
        "input_ids": inputs["decoder_input_ids"],
        "encoder_hidden_states": files[ENCODER].run(source_inputs(inputs))["last_hidden_state"],
    }
    if "attention_mask" in inputs:
        given["encoder_attention_mask"] = inputs["attention_mask"]
    return _decoder(files, False).run(given)["logits"]

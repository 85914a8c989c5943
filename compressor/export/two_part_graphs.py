"""Parts of encoder–decoders for torch.onnx.export; tensor names as in Hugging Face optimum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from compressor.export.graphs import BATCH, BY_TOKEN, NEW, PAST, TOKENS, Axes, OnnxGraph, flat_cache, outputs_of
from compressor.models.inputs import dummy_inputs

_SOURCE: Axes = {0: "batch", 1: "encoder_sequence"}


class EncoderGraph(OnnxGraph):
    """An encoder, to `last_hidden_state` [B, S, width]."""

    def __init__(self, model: PreTrainedModel, cache: bool = True) -> None:
        super().__init__(model)
        inputs = source_inputs(dummy_inputs(model.config, BATCH, TOKENS))
        text = "input_ids" in inputs
        names = ("input_ids", "attention_mask", "last_hidden_state") if text else ()
        self._trace(inputs, dict.fromkeys(names, _SOURCE))

    def call(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"last_hidden_state": self.model.get_encoder()(**values, return_dict=True).last_hidden_state}


class DecoderGraph(OnnxGraph):
    """A decoder without past.

    Inputs: `input_ids` [B, N], `encoder_attention_mask` [B, S] for text, `encoder_hidden_states` [B, S, width].
    Outputs: `logits` [B, N, V] or `last_hidden_state`; with `cache` also `present.{layer}.decoder.key` / `.value`
    [B, heads, N, channels] and `present.{layer}.encoder.key` / `.value` [B, heads, S, channels].
    """

    def __init__(self, model: PreTrainedModel, cache: bool = True) -> None:
        super().__init__(model)
        self.cache = cache
        source, ids = _example(model)
        inputs = {"input_ids": ids}
        if "attention_mask" in source:
            inputs["encoder_attention_mask"] = source["attention_mask"]
        with torch.no_grad():
            inputs["encoder_hidden_states"] = model.get_encoder()(**source, return_dict=True).last_hidden_state
        self._trace(inputs, _decoder_axes("attention_mask" in source))

    def call(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if self.cache else None
        output = _decode(self.model, values, values["encoder_hidden_states"], cache)
        named = outputs_of(self.model, output)
        if cache is not None:
            own = flat_cache("present", output.past_key_values.self_attention_cache, ".decoder")
            cross = flat_cache("present", output.past_key_values.cross_attention_cache, ".encoder")
            named |= _by_layer(own, cross)
        return named


class DecoderStepGraph(OnnxGraph):
    """A decoder with past.

    Inputs: `input_ids` [B, N], `encoder_attention_mask` [B, S] for text, `past_key_values` as of `DecoderGraph`.
    Outputs: `logits` and the decoder's `present`.
    """

    def __init__(self, model: PreTrainedModel, cache: bool = True) -> None:
        super().__init__(model)
        first = DecoderGraph(model)
        self.width = first.inputs["encoder_hidden_states"].shape[-1]
        start = {**first.inputs, "input_ids": first.inputs["input_ids"][:, :PAST]}
        with torch.no_grad():
            present = first.call(start)
        inputs = {"input_ids": first.inputs["input_ids"][:, PAST:]}
        text = "encoder_attention_mask" in start
        if text:
            inputs["encoder_attention_mask"] = start["encoder_attention_mask"]
        inputs |= {n.replace("present", "past_key_values"): v for n, v in present.items() if n.startswith("present.")}
        axes = _decoder_axes(text)
        self._trace(inputs, {**axes, "present.decoder": {0: "batch", 2: "total_sequence"}})

    def call(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        own = [value for name, value in values.items() if ".decoder." in name]
        cross = [value for name, value in values.items() if ".encoder." in name]
        cache = EncoderDecoderCache(
            DynamicCache(zip(own[::2], own[1::2], strict=True)), DynamicCache(zip(cross[::2], cross[1::2], strict=True))
        )
        # Only its shape is used: keys and values of the encoder's output are in the cache.
        source = cross[0].new_zeros(cross[0].shape[0], cross[0].shape[2], self.width)
        output = _decode(self.model, values, source, cache)
        present = flat_cache("present", output.past_key_values.self_attention_cache, ".decoder")
        return {**outputs_of(self.model, output), **present}


def source_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of an encoder."""
    return {name: value for name, value in inputs.items() if not name.startswith("decoder_")}


def _by_layer(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flat caches, merged layer by layer."""
    pairs: Iterable[tuple] = zip(*(list(part.items()) for part in parts), strict=True)
    columns = [list(row) for row in pairs]
    named: dict[str, Tensor] = {}
    for keys, values in zip(columns[::2], columns[1::2], strict=True):
        for key, value in zip(keys, values, strict=True):
            named |= dict((key, value))
    return named


def _example(model: PreTrainedModel) -> tuple[dict[str, Tensor], Tensor]:
    inputs = dummy_inputs(model.config, BATCH, TOKENS)
    return source_inputs(inputs), inputs["decoder_input_ids"][:, : PAST + NEW]


def _decode(
    model: PreTrainedModel, values: Mapping[str, Tensor], source: Tensor, cache: EncoderDecoderCache | None
) -> Any:
    mask = {"attention_mask": values["encoder_attention_mask"]} if "encoder_attention_mask" in values else {}
    return model(
        encoder_outputs=BaseModelOutput(last_hidden_state=source),
        decoder_input_ids=values["input_ids"],
        past_key_values=cache,
        use_cache=cache is not None,
        return_dict=True,
        **mask,
    )


def _decoder_axes(text: bool) -> dict[str, Axes]:
    # A spectrogram, and so the encoder's output, has a fixed length.
    cross: Axes = {0: "batch", 2: "encoder_sequence"} if text else {0: "batch"}
    return {
        **dict.fromkeys(("input_ids", "logits", "last_hidden_state"), BY_TOKEN),
        "encoder_attention_mask": _SOURCE,
        "encoder_hidden_states": _SOURCE if text else {0: "batch"},
        "past_key_values.decoder": {0: "batch", 2: "past_sequence"},
        "past_key_values.encoder": cross,
        "present.decoder": {0: "batch", 2: "sequence"},
        "present.encoder": cross,
    }

"""Parts of a model for torch.onnx.export; tensor names as in Hugging Face optimum."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from compressor.anatomy.hooks import named_answers
from compressor.errors import UnsupportedError
from compressor.models.inputs import dummy_inputs
from compressor.models.meta import as_pair
from compressor.models.modalities import has_patches
from compressor.models.tasks.table import task_of_model

#: Sizes of the traced examples; the files take any others.
BATCH, TOKENS, PAST, NEW = 2, 16, 5, 3

Axes = Mapping[int, str]
BY_TOKEN: Axes = {0: "batch", 1: "sequence"}
_CHOICES: Axes = {0: "batch", 1: "choices", 2: "sequence"}
_SIDES: Axes = {0: "batch", 2: "height", 3: "width"}


class OnnxGraph(nn.Module, ABC):
    """The computation of one file, with positional tensors.

    Attributes:
        inputs: {name: example}, in the order of `forward`.
        axes: {name: dynamic axes}.
        opset: of the file; None for torch's own.
    """

    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    axes: dict[str, Axes]
    opset: int | None = None

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def call(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """From named inputs to named outputs."""

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.call(dict(zip(self.inputs, values, strict=True))).values())

    def _trace(self, inputs: dict[str, Tensor], axes: Mapping[str, Axes]) -> None:
        """Store examples and names; keys of `axes`: a name, its ends, or its first part."""
        self.inputs = inputs
        with torch.no_grad():
            self.outputs = tuple(self.call(inputs))
        self.axes = {}
        for name in (*inputs, *self.outputs):
            parts = name.split(".")
            keys = (name, ".".join((parts[0], *parts[2:-1])), parts[0])
            self.axes[name] = next((axes[key] for key in keys if key in axes), {0: "batch"})


class WholeGraph(OnnxGraph):
    """A whole model, to the outputs of its task, or `last_hidden_state` and `pooler_output`.

    Models of maps of images take images of any size, unless their config names one.  Others may take `token_type_ids`
    [B, T].
    """

    def __init__(self, model: PreTrainedModel, cache: bool = True) -> None:
        super().__init__(model)
        inputs = as_pair(model.config, dummy_inputs(model.config, BATCH, TOKENS))
        self._trace(inputs, _whole_axes(model, inputs))

    def call(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return outputs_of(self.model, self.model(**values, **no_cache(self.model), return_dict=True))


class StepGraph(OnnxGraph):
    """A causal language model with past.

    Inputs: `input_ids` [B, N], `attention_mask` [B, P + N], `position_ids` [B, N] if any,
    `past_key_values.{layer}.key` / `.value` [B, heads, P, channels].  Outputs: `logits` [B, N, V],
    `present.{layer}.key` / `.value` [B, heads, P + N, channels], with sliding windows too: the mask restricts them.
    """

    def __init__(self, model: PreTrainedModel, cache: bool = True) -> None:
        super().__init__(model)
        ids = dummy_inputs(model.config, BATCH, PAST + NEW)["input_ids"]
        with torch.no_grad():
            past = self.model(input_ids=ids[:, :PAST], past_key_values=DynamicCache(), use_cache=True).past_key_values
        inputs = {"input_ids": ids[:, PAST:], "attention_mask": torch.ones_like(ids)}
        if forward_names(model, "position_ids"):
            inputs["position_ids"] = torch.arange(PAST, PAST + NEW).expand(BATCH, NEW).contiguous()
        inputs |= flat_cache("past_key_values", past, "")
        total: Axes = {0: "batch", 1: "total_sequence"}
        self._trace(
            inputs,
            {
                **dict.fromkeys(("input_ids", "position_ids", "logits"), BY_TOKEN),
                "attention_mask": total,
                "past_key_values": {0: "batch", 2: "past_sequence"},
                "present": {0: "batch", 2: "total_sequence"},
            },
        )

    def call(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = [value for name, value in values.items() if name.startswith("past_key_values.")]
        inputs = {name: value for name, value in values.items() if not name.startswith("past_key_values.")}
        cache = DynamicCache(zip(tensors[::2], tensors[1::2], strict=True))
        output = self.model(**inputs, past_key_values=cache, use_cache=True, return_dict=True)
        return {"logits": output.logits, **flat_cache("present", output.past_key_values, "")}


def forward_names(model: PreTrainedModel, argument: str) -> bool:
    """Whether forward has this argument."""
    return argument in inspect.signature(model.forward).parameters


def _whole_axes(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Axes]:
    """Dynamic axes of a whole model's file, besides those of the batch."""
    task = task_of_model(model)
    if task.answers == "pairs":
        # Images beside texts, each with one embedding.
        by_token = tuple(name for name, value in inputs.items() if value.dim() == 2)
        return {**dict.fromkeys(by_token, BY_TOKEN), "logits_per_image": {0: "batch", 1: "batch"}}
    if takes_any_size(model):
        return dict.fromkeys(("pixel_values", *task.outputs), _SIDES)
    if "input_ids" not in inputs:
        return {}
    return dict.fromkeys((*inputs, *task.outputs, "last_hidden_state"), _CHOICES if task.choices else BY_TOKEN)


def takes_any_size(model: PreTrainedModel) -> bool:
    """Whether a model answers with maps for images of any size."""
    return task_of_model(model).logit_dims == 4 and not has_patches(model.config)


def no_cache(model: PreTrainedModel) -> dict[str, bool]:
    """The option that disables the cache, if any."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = any(p.name == "use_cache" or p.kind is p.VAR_KEYWORD for p in parameters)
    return {"use_cache": False} if named and hasattr(model.config, "use_cache") else {}


def outputs_of(model: PreTrainedModel, output: object) -> dict[str, Tensor]:
    """The output tensors that a file returns.

    Raises:
        UnsupportedError: none of them.
    """
    task = task_of_model(model)
    if task.name == "unscored" and (every := named_answers(output)):
        return every
    answers = ("last_hidden_state", *task.outputs) if task.headless and task.metrics else task.outputs
    for names in (answers, ("logits",), ("last_hidden_state", "pooler_output")):
        named = {name: value for name in names if isinstance(value := getattr(output, name, None), Tensor)}
        if named:
            return named
    raise UnsupportedError(f"{type(model).__name__} gives neither logits nor last_hidden_state: it cannot be exported")


def flat_cache(prefix: str, cache: DynamicCache, part: str) -> dict[str, Tensor]:
    """Keys and values by name, layer by layer.

    Raises:
        UnsupportedError: another kind of cache.
    """
    named = {}
    for index, layer in enumerate(cache.layers):
        for name, attribute in (("key", "keys"), ("value", "values")):
            value = getattr(layer, attribute, None)
            if not isinstance(value, Tensor) or value.ndim != 4:
                raise UnsupportedError(
                    f"layer {index} keeps no keys and values in its cache ({type(layer).__name__}): "
                    "export without the cache"
                )
            named[f"{prefix}.{index}{part}.{name}"] = value
    return named

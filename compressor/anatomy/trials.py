"""Trials: the inputs on which a small model is watched and proven.

What no trial reaches is not proven, so together they name every input that the forward pass reads, with padding, at two
lengths, one beyond windows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from compressor.anatomy.hooks import all_outputs
from compressor.anatomy.resize import BUILD_ERRORS
from compressor.models.inputs import dummy_inputs, optional_inputs
from compressor.models.meta import most_positions
from compressor.models.signature import readable_inputs

#: Tokens of the short trial and of the long one, and the most that a window asks for.
SHORT, LONG, LONGEST = 7, 20, 72


def make_trials(model: nn.Module, config: PretrainedConfig) -> list[dict[str, Tensor]]:
    """Inputs of the passes that run: a plain one, then one (or several) of every other input.

    Raises:
        Exception: those of the model, if the plain inputs do not run.
    """
    plain = needed_inputs(model, config, batch=3, length=SHORT)
    rich = needed_inputs(model, config, batch=2, length=_long(config), seed=1)
    options = {"padding": _padded(rich, config)} | {
        name: {name: value} for name, value in optional_inputs(model, config, rich).items()
    }
    if "target_mapping" in readable_inputs(model) and "input_ids" in rich:
        options["permutation"] = _last_token_predicted(rich["input_ids"])
    together = {**rich, **{name: value for option in options.values() for name, value in option.items()}}
    if _runs(model, together):
        return [plain, together]
    # Some inputs exclude each other.
    alone = [option for option in ({}, *options.values()) if _runs(model, {**rich, **option})]
    return [plain, *({**rich, **option} for option in alone)]


def needed_inputs(
    model: nn.Module, config: PretrainedConfig, batch: int, length: int, seed: int = 0
) -> dict[str, Tensor]:
    """Plain inputs, or those with all others where a pass cannot do without them, whatever its signature says.

    Raises:
        Exception: those of the model, if neither run.
    """
    plain = dummy_inputs(config, batch, length, seed=seed, dtype=torch.float64)
    try:
        answers = all_outputs(model, plain)
    except BUILD_ERRORS:
        whole = {**optional_inputs(model, config, plain, seed + 1), **plain}
        if whole.keys() == plain.keys() or not _runs(model, whole):
            raise
        return whole
    if answers and not any(answer.isfinite().any() for answer in answers.values()):
        raise ValueError("it answers nothing but infinities, or no numbers at all")
    return plain


def _last_token_predicted(ids: Tensor) -> dict[str, Tensor]:
    """What a permutation language model (XLNet) reads: no token sees the last one, which is predicted."""
    batch, length = ids.shape
    hidden = torch.zeros(batch, length, length, dtype=torch.float64)
    hidden[:, :, -1] = 1
    return {"perm_mask": hidden, "target_mapping": hidden[:, -1:]}


def complete_inputs(
    model: nn.Module, config: PretrainedConfig, batch: int, length: int, seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random inputs of all that the forward pass reads, as far as known; the needed ones if others do not fit."""
    plain = dummy_inputs(config, batch, length, seed=seed, dtype=dtype)
    options = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in optional_inputs(model, config, plain, seed + 1).items()
    }
    return {**plain, **options} if _runs(model, {**plain, **options}) else plain


def _runs(model: Any, inputs: Mapping[str, Tensor]) -> bool:
    try:
        all_outputs(model, inputs)
    except BUILD_ERRORS:
        return False
    return True


def _long(config: PretrainedConfig) -> int:
    """Tokens beyond the windows, within the positions."""
    windows = [
        value
        for name, value in config.to_dict().items()
        if re.search(r"window|local_attention", name) and isinstance(value, int) and not isinstance(value, bool)
    ]
    length = max([LONG, *(window + 5 for window in windows if window + 5 <= LONGEST)])
    return min(length, most_positions(config) or length)


def _padded(inputs: Mapping[str, Tensor], config: PretrainedConfig) -> dict[str, Tensor]:
    """Masks whose first sample ends early."""
    masks = {}
    for name, value in inputs.items():
        if re.fullmatch(r"(decoder_)?input_ids", name) and value.shape[-1] > 4:
            mask = torch.ones_like(value)
            mask[0, -3:] = 0
            masks[name.replace("input_ids", "attention_mask")] = mask
    return masks

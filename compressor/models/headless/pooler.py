"""Headless models without the pooler that their class builds by default (BERT, RoBERTa, ViT)."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedModel

#: The config's field that leaves the pooler out; transformers knows it as an argument of the class alone.
WITHOUT_POOLER = "without_pooler"
_POOLER, _ARGUMENT = "pooler", "add_pooling_layer"


def is_pooler_missing(model: PreTrainedModel, missing: Collection[str]) -> bool:
    """Whether stored weights lack all of a pooler that a headless class can do without, and nothing else."""
    pooler = dict(model.named_children()).get(_POOLER)
    if pooler is None or _ARGUMENT not in inspect.signature(type(model).__init__).parameters:
        return False
    return set(missing) == {f"{_POOLER}.{name}" for name, _ in pooler.named_parameters()}


def leave_out_pooler(model: PreTrainedModel) -> None:
    """Remove the pooler, and note it in the config."""
    setattr(model, _POOLER, None)
    setattr(model.config, WITHOUT_POOLER, True)


def without_pooler(model: Any) -> Any:
    """The model that a config builds, without its pooler if the config says so."""
    if getattr(model.config, WITHOUT_POOLER, False):
        setattr(model, _POOLER, None)
    return model

"""Names of models: a local folder, built-in teacher or Hub id, in this order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.models.builtin import BUILTIN, builtin_config, builtin_folder
from compressor.models.configs import read_config
from compressor.utils.input_files import special_kind
from compressor.utils.logging import one_line
from compressor.wording import shorten


@dataclass(frozen=True)
class ModelSource:
    """The origin of a model.

    Attributes:
        name: as the user wrote it.
        location: for `from_pretrained`; may not exist yet if built-in.
    """

    kind: Literal["folder", "builtin", "hub", "object"]
    name: str
    location: str


def resolve(name: str) -> ModelSource:
    """Find a model by name; without a connection, Hub ids in the local cache.

    Raises:
        UserError: not found, or a file of that name.
    """
    path = Path(name).expanduser()
    # Methods of Path raise on names that are too long.
    if os.path.isdir(path):
        return ModelSource("folder", name, str(path))
    if (kind := special_kind(path)) is not None:
        raise UserError(f"{name} is {kind}: a model is a folder with config.json and safetensors weights")
    if os.path.isfile(path):
        raise UserError(f"{name} is a file: a model is a folder with config.json and safetensors weights")
    if name in BUILTIN:
        return ModelSource("builtin", name, str(builtin_folder(name)))
    try:
        # One request: without network, `from_pretrained` retries for half a minute.
        HfApi().model_info(name, timeout=10)
    except HFValidationError:
        raise UserError(_not_found(name, "it is no valid Hub id")) from None
    except Exception as error:
        cached = try_to_load_from_cache(name, "config.json")
        if not isinstance(cached, str):
            raise UserError(_not_found(name, f"not reachable on the Hub: {one_line(error)}")) from error
        return ModelSource("hub", name, str(Path(cached).parent))
    return ModelSource("hub", name, name)


def load_config(name: str) -> PretrainedConfig:
    """A model's config by name, without training or reading weights.

    Raises:
        UserError: unknown name, or an unusable config.json.
    """
    source = resolve(name)
    return builtin_config(name) if source.kind == "builtin" else read_config(source.location)


def _not_found(name: str, hub: str) -> str:
    return f"no model '{shorten(name)}': no such folder, not a built-in teacher ({', '.join(BUILTIN)}), and {hub}"

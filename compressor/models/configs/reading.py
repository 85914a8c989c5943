"""Reading configs within bounds; code of their own is run with consent alone."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING_NAMES
from transformers.utils import CONFIG_NAME, cached_file

from compressor.errors import UnsupportedError, UserError
from compressor.models.configs.adapters import check_no_adapter
from compressor.models.configs.bounds import check_model_files, check_sizes, read_config_values
from compressor.models.configs.checks import check_buildable, check_fields
from compressor.models.configs.own_code import AUTO_MAP, CONSENT, code_needed, forget_code, import_own_model, own_model
from compressor.models.configs.quantised import check_not_quantised, names_in
from compressor.models.headless.sentence_pooling import read_pooling
from compressor.models.tasks.table import find_task
from compressor.utils.consent import is_code_trusted
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.revisions import hub_keywords, split_revision
from compressor.wording import shorten


def read_config(location: str | Path) -> PretrainedConfig:
    """The config in a folder or at a Hub id.

    Raises:
        UserError: missing, unreadable, too large or unbuildable; or a special file.
        UnsupportedError: unknown model type, or code of its own.
    """
    if os.path.isdir(location):
        check_model_files(Path(location))
        _check_config_file(Path(location) / CONFIG_NAME)
    try:
        with quiet_transformers():
            if not os.path.isdir(location):
                # Checked before use: a config makes lists of its sizes.
                name, revision = split_revision(str(location))
                stored = cached_file(name, CONFIG_NAME, revision=revision)
                check_not_quantised(location, read_config_values(Path(str(stored))))
            config = AutoConfig.from_pretrained(**hub_keywords(location), trust_remote_code=is_code_trusted())
            config = import_own_model(location, config)
    except UserError:
        raise
    except Exception as error:
        refused = code_needed(location, error)
        raise refused or UserError(f"cannot use the config of {location}: {one_line(error)}") from error
    # Again with the sizes that the file leaves to the model type.
    check_sizes(config.to_dict(), f"the config of {location}")
    forget_code(config)
    # The file must not choose the attention: it could name a kernel, a program of the Hub.
    config._attn_implementation = None
    check_fields(location, config)
    read_pooling(location, config)
    # Unknown classes are refused later, with a better message.
    with suppress(UnsupportedError):
        check_buildable(location, config, model_class(config))
    return config


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that `config.architectures` names first: of code of its own if that was run, or of transformers.

    Raises:
        UnsupportedError: none, or unknown.
    """
    find_task(config)
    name = (config.architectures or [""])[0]
    cls = own_model(config) or getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        version = transformers.__version__
        raise UnsupportedError(
            f"{shorten(name)} is not a model of transformers {version}, and no code of its folder that was run has it"
        )
    return cls


def fast_attention(config: PretrainedConfig) -> dict[str, str]:
    """{part of a config, "" for the whole: SDPA, or eager attention where its class has no other}."""
    whole = "sdpa" if model_class(config)._supports_sdpa else "eager"
    parts = {name: whole for name in config.sub_configs}
    kind: Any = type(getattr(config, "backbone_config", None))
    backbone: Any = MODEL_FOR_BACKBONE_MAPPING.get(kind, None)
    if backbone is not None and not backbone._supports_sdpa:
        # A backbone of convolutions has no attention, and refuses to be asked for one.
        parts["backbone_config"] = "eager"
    return {"": whole, **parts}


def named(config: PretrainedConfig) -> PretrainedConfig:
    """The config, or a copy that names its type's base class where it names none."""
    if config.architectures:
        return config
    names = MODEL_MAPPING_NAMES.get(config.model_type)
    named_config = copy.deepcopy(config)
    named_config.architectures = [names if isinstance(names, str) else names[0]] if names else None
    return named_config


def _check_config_file(path: Path) -> None:
    check_no_adapter(path.parent)
    try:
        values = read_config_values(path)
    except FileNotFoundError:
        raise UserError(f"no config.json in {path.parent}: a model is a folder with config.json and weights") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from None
    check_not_quantised(path.parent, values, names_in(path.parent))
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(model_type, str):
        raise UserError(f"{path} names no model_type: it is not the config of a transformers model")
    if model_type not in CONFIG_MAPPING and not (AUTO_MAP in values and is_code_trusted()):
        code = f"; its own code ({AUTO_MAP}) is not run without {CONSENT}" if AUTO_MAP in values else ""
        raise UnsupportedError(
            f"{path}: model_type '{shorten(model_type)}' is not known to this version of transformers{code}"
        )

"""Reading configs within bounds, without code of their own."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import CONFIG_NAME, cached_file

from compressor.errors import UnsupportedError, UserError
from compressor.models.adapters import check_no_adapter
from compressor.models.bounds import check_model_files, check_sizes, read_config_values
from compressor.models.config_checks import check_buildable, check_fields
from compressor.models.quantised import check_not_quantised, names_in
from compressor.models.sentence_pooling import read_pooling
from compressor.models.tasks import find_task
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.revisions import hub_keywords, split_revision
from compressor.wording import shorten

#: The field that names code of their own, which is never run.
AUTO_MAP = "auto_map"


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
            config = AutoConfig.from_pretrained(**hub_keywords(location), trust_remote_code=False)
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
    """The transformers class that `config.architectures` names first.

    Raises:
        UnsupportedError: none, or unknown.
    """
    find_task(config)
    name = (config.architectures or [""])[0]
    cls = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        version = transformers.__version__
        raise UnsupportedError(f"{shorten(name)} is not a model of transformers {version}: custom code is not run")
    return cls


def named(config: PretrainedConfig) -> PretrainedConfig:
    """The config, or a copy that names its type's base class where it names none."""
    if config.architectures:
        return config
    names = MODEL_MAPPING_NAMES.get(config.model_type)
    named_config = copy.deepcopy(config)
    named_config.architectures = [names if isinstance(names, str) else names[0]] if names else None
    return named_config


def forget_code(owner: Any) -> bool:
    """Remove the code that `owner` names, so that no student names it; return whether it named any."""
    # Tokenizers keep what they save in a dict.
    places = [vars(owner), getattr(owner, "init_kwargs", {})] if owner is not None else []
    return any([place.pop(AUTO_MAP, None) is not None for place in places])


def code_not_run(location: object) -> str:
    """Note on a model loaded without its code."""
    return f"{location} names code of its own ({AUTO_MAP}), which was not run: classes of transformers took its place"


def code_needed(location: object, error: BaseException) -> UnsupportedError | None:
    """The error of a model that needs its own code; None if `error` has another reason.

    Args:
        error: under `trust_remote_code=False`.
    """
    if "trust_remote_code" not in str(error):
        return None
    return UnsupportedError(
        f"{location} needs code of its own ({AUTO_MAP}), which is never run: save it with classes of transformers"
    )


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
    if model_type not in CONFIG_MAPPING:
        code = f"; its own code ({AUTO_MAP}) is never run" if AUTO_MAP in values else ""
        raise UnsupportedError(
            f"{path}: model_type '{shorten(model_type)}' is not known to this version of transformers{code}"
        )

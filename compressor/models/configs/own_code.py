"""Code in folders of models: named by `auto_map`, run with consent alone, and copied into the student's folder."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from compressor.errors import UnsupportedError, UserError
from compressor.utils.consent import is_code_trusted
from compressor.utils.logging import one_line
from compressor.utils.revisions import hub_keywords

#: The field that names the code.
AUTO_MAP = "auto_map"
#: How consent is given, in words.
CONSENT = "--trust-remote-code, in Python trust_remote_code=True"

#: {(name of a class, digest of its code): the class}; folders with the same code share it.
_BY_CODE: dict[tuple[str, str], type[PreTrainedModel]] = {}
#: {(class of a config, name that it gives its model's class): that class}.
_MODELS: dict[tuple[type[PretrainedConfig], str], type[PreTrainedModel]] = {}


def import_own_model(location: str | Path, config: PretrainedConfig) -> PretrainedConfig:
    """Import the model class of a config whose `auto_map` names one; the config, of the class that this one has.

    Raises:
        UserError: the code cannot be imported, or other code has the same names.
    """
    references, name = getattr(config, AUTO_MAP, None) or {}, (config.architectures or [""])[0]
    auto = next((auto for auto, reference in references.items() if _names_model(auto, reference, name)), None)
    if auto is None or not is_code_trusted():
        return config
    try:
        cls = get_class_from_dynamic_module(references[auto], **hub_keywords(location))
    # Whatever foreign code raises.
    except Exception as error:
        raise UserError(f"the code of {location} cannot be imported: {one_line(error)}") from error
    cls = _BY_CODE.setdefault((name, _digest(cls)), cls)
    if (config_class := cls.config_class) is None:
        raise UserError(f"the code of {location} gives {name} no config_class")
    # Then saving copies the code.
    cls.register_for_auto_class(auto)
    if is_own(config_class):
        config_class.register_for_auto_class()
    if _MODELS.setdefault((config_class, name), cls) is not cls:
        raise UserError(f"the code of {location} and that of another folder both define {name}, and they differ")
    return config_class.from_pretrained(**hub_keywords(location), trust_remote_code=is_code_trusted())


def own_model(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class that code of its own defines for a config, if it was imported, and may be used here too."""
    # Whoever has a config of such a class has consented; others share theirs with models that bring no code.
    if not is_code_trusted() and not is_own(type(config)):
        return None
    return _MODELS.get((type(config), (config.architectures or [""])[0]))


def copy_code(config: PretrainedConfig, folder: str | Path) -> None:
    """Write the code of a config's model, if it has its own, into a folder."""
    if (cls := own_model(config)) is not None:
        for path in _files(cls):
            shutil.copyfile(path, Path(folder, path.name))


def is_own(cls: type) -> bool:
    """Whether code in a model's folder defines a class."""
    return cls.__module__.partition(".")[0] == TRANSFORMERS_DYNAMIC_MODULE_NAME


def forget_code(owner: Any) -> bool:
    """Remove the code that `owner` names and that was not run, so that no student names it; whether it named any."""
    if owner is None or is_own(type(owner)) or (isinstance(owner, PretrainedConfig) and own_model(owner)):
        return False
    # Tokenizers keep what they save in a dict.
    places = [vars(owner), getattr(owner, "init_kwargs", {})]
    return any([place.pop(AUTO_MAP, None) is not None for place in places])


def code_not_run(location: object) -> str:
    """Note on a model loaded without its code."""
    return (
        f"{location} names code of its own ({AUTO_MAP}), which was not run: classes of transformers took its place "
        f"({CONSENT} runs it)"
    )


def code_run(location: object) -> str:
    """Note on a model that brought code."""
    return f"code of {location} was run, as trust_remote_code allows; the student's folder has a copy of it"


def code_needed(location: object, error: BaseException) -> UnsupportedError | None:
    """The error of a model that needs its own code; None if `error` has another reason.

    Args:
        error: under `trust_remote_code=False`.
    """
    if "trust_remote_code" not in str(error):
        return None
    return UnsupportedError(
        f"{location} needs code of its own ({AUTO_MAP}), which is not run without your consent: read it and add "
        f"{CONSENT}, or save the model with classes of transformers"
    )


def _names_model(auto: str, reference: Any, name: str) -> bool:
    return auto.startswith("AutoModel") and isinstance(reference, str) and reference.rpartition(".")[2] == name


def _files(cls: type) -> list[Path]:
    """The files that define a class."""
    file = str(sys.modules[cls.__module__].__file__)
    return sorted(map(Path, {file, *get_relative_import_files(file)}))


def _digest(cls: type) -> str:
    """Sha256 of the files that define a class."""
    digest = hashlib.sha256()
    for path in _files(cls):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()

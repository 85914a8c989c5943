"""From a folder or Hub id to a config, and to a model with exactly the weights that are stored there."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file

from compressor.errors import UnsupportedError, UserError
from compressor.models.bounds import check_model_files, check_sizes, read_config_values
from compressor.models.config_checks import check_buildable, check_fields
from compressor.models.finite import check_weights
from compressor.models.foreign_code import AUTO_MAP, code_needed, code_not_run, forget_code
from compressor.models.inputs import task_of
from compressor.models.weight_files import check_weight_files, copy_out_of_files, unchanged
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.out_of_memory import is_out_of_memory
from compressor.wording import shorten

#: What older releases of transformers stored beside the weights, and newer ones compute.
_BUFFERS = ("position_ids", "token_type_ids", "masked_bias", "inv_freq")


def read_config(location: str | Path) -> PretrainedConfig:
    """The config in a folder or at a Hub id.

    Raises:
        UserError: config.json is missing, unreadable, asks for more than any model has, is refused by transformers, or
            no model can be built of it; or a file beside it is no regular one.
        UnsupportedError: its model type is not one of this version of transformers, or needs code of its own.
    """
    if os.path.isdir(location):
        check_model_files(Path(location))
        _check_config_file(Path(location) / CONFIG_NAME)
    try:
        with quiet_transformers():
            if not os.path.isdir(location):
                # Looked at before it is used: a config makes lists of its sizes.
                read_config_values(Path(str(cached_file(location, CONFIG_NAME))))
            config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:
        refused = code_needed(location, error)
        raise refused or UserError(f"cannot use the config of {location}: {one_line(error)}") from error
    # Again with the sizes that the file leaves to the model type.
    check_sizes(config.to_dict(), f"the config of {location}")
    forget_code(config)
    # How attention is computed is not the file's to say: it could name a kernel, a program of the Hub.
    config._attn_implementation = None
    check_fields(location, config)
    # Of a class that is not known there is more to say than that it cannot be built: whoever needs it does.
    with suppress(UnsupportedError):
        check_buildable(location, config, model_class(config))
    return config


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class of transformers that `config.architectures` names first.

    Raises:
        UnsupportedError: it names none, or one that this version of transformers does not have.
    """
    task_of(config)
    name = (config.architectures or [""])[0]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        version = transformers.__version__
        raise UnsupportedError(f"{shorten(name)} is not a model of transformers {version}: custom code is not run")
    return found


def load_model(
    location: str | Path,
    attn_implementation: str = "sdpa",
    *,
    notes: list[str] | None = None,
    mapped: bool = False,
) -> PreTrainedModel:
    """Load a model in float32, in eval mode, on the CPU.

    Nothing of its files is read afterwards: whatever happens to them, the model stays what was read.

    Args:
        location: a folder or a Hub id.
        attn_implementation: as transformers calls it; a class without SDPA gets "eager".
        notes: told of weights of other heads, which are left out, and of code, which is not run.
        mapped: leave weights mapped to their files, as a deployment does; for measuring memory.

    Raises:
        UserError: config or weights are missing, unreadable, not finite, do not match each other, or were written to
            while they were read.
    """
    with unchanged(Path(location)):
        model = _load(location, attn_implementation, notes)
        if not mapped:
            copy_out_of_files(model)
    check_weights(str(location), model)
    return model.eval()


def _load(location: str | Path, attn_implementation: str, notes: list[str] | None) -> PreTrainedModel:
    folder = Path(location)
    config = read_config(location)
    cls = model_class(config)
    if folder.is_dir():
        check_weight_files(folder)
    if attn_implementation == "sdpa" and not cls._supports_sdpa:
        attn_implementation = "eager"
    try:
        with quiet_transformers():
            loaded: Any = cls.from_pretrained(
                location,
                dtype=torch.float32,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
                # So that they are listed, and refused below in one line.
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, SafetensorError | OSError):
            raise UserError(f"cannot read the weights of {location}: {one_line(error)}") from error
        # Whatever transformers raises here comes of the files.
        raise UserError(f"cannot build {cls.__name__} from {location}: {one_line(error)}") from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    left_out = [name for name in sorted(info["unexpected_keys"]) if is_of_another_head(model, name)]
    _check_loaded(location, {**info, "unexpected_keys": set(info["unexpected_keys"]) - set(left_out)})
    if forget_code(model.config) and notes is not None:
        notes.append(code_not_run(location))
    if left_out and notes is not None:
        notes.append(f"{location} also holds weights that {cls.__name__} does not use: {_first(left_out)}")
    return model


def is_of_another_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a stored weight that a model has no place for is none that it should have had.

    Checkpoints carry what another class than the model's uses: heads of other tasks, which lie beside the body, and
    the body's own pooler.  So a name is followed into the model as far as there are modules.  It is of another head if
    it leaves the model at a module, either outside the body or where the body of the model type may have a module that
    this class leaves out.  Anything else means that config and weights do not match: a layer or block that the body
    has no place for, or a weight of a module that is there.

    Args:
        model: the loaded model.
        name: the weight's, as the model would call it.
    """
    *path, last = name.split(".")
    if last in _BUFFERS:
        return True
    module: torch.nn.Module = model
    body = getattr(model, model.base_model_prefix, model)
    inside = module is body
    for part in path:
        found = dict(module.named_children()).get(part)
        if found is None:
            if module is model:
                return True
            return not inside or (module is body and _body_may_have(model.config, part))
        module = found
        inside = inside or module is body
    return False


def _body_may_have(config: PretrainedConfig, child: str) -> bool:
    """Whether the headless model of a config has a module of that name."""
    base = MODEL_MAPPING.get(type(config), None)
    if not isinstance(base, type):
        return False
    with quiet_transformers(), torch.device("meta"):
        return hasattr(base(copy.deepcopy(config)), child)


def _check_config_file(path: Path) -> None:
    try:
        values = read_config_values(path)
    except FileNotFoundError:
        raise UserError(f"no config.json in {path.parent}: a model is a folder with config.json and weights") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {one_line(error)}") from None
    kind = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise UserError(f"{path} names no model_type: it is not the config of a transformers model")
    if kind not in CONFIG_MAPPING:
        own = f"; its own code ({AUTO_MAP}) is never run" if AUTO_MAP in values else ""
        raise UnsupportedError(
            f"{path}: model_type '{shorten(kind)}' is not known to this version of transformers{own}"
        )


def _check_loaded(location: str | Path, info: dict) -> None:
    """Refuse weights that transformers would fill in at random, drop, or resize."""
    problems = []
    if info["missing_keys"]:
        problems.append(f"missing {_first(info['missing_keys'])}")
    if info["unexpected_keys"]:
        problems.append(f"left over {_first(info['unexpected_keys'])}")
    if info["mismatched_keys"]:
        shapes = [f"{name} (stored {_shape(a)}, config {_shape(b)})" for name, a, b in info["mismatched_keys"]]
        problems.append(f"other shapes {_first(shapes)}")
    problems += [one_line(RuntimeError(message)) for message in info.get("error_msgs") or ()]
    if problems:
        raise UserError(f"the config of {location} does not match its weights: {'; '.join(problems)}")


def _first(names: list[str] | set[str], count: int = 2) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - count} more" if len(ordered) > count else ""
    return ", ".join(ordered[:count]) + rest


def _shape(size: torch.Size) -> str:
    return "×".join(str(n) for n in size)

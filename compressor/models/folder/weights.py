"""Loading a model with exactly its stored weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from compressor.errors import UserError
from compressor.models.configs.adapters import adapter_note, without_adapter, wrapper_of
from compressor.models.configs.own_code import code_not_run, code_run, forget_code, is_own
from compressor.models.configs.reading import fast_attention, model_class, read_config
from compressor.models.finite import check_finite_weights
from compressor.models.folder.padding import set_padding, settle_padding
from compressor.models.folder.weight_files import check_unchanged, check_weight_files, copy_out_of_files
from compressor.models.headless.pooler import is_pooler_missing, leave_out_pooler
from compressor.models.headless.sentence_modules import read_projection
from compressor.models.headless.sentence_pooling import pooling_of, set_pooling, with_embedding
from compressor.models.ties import settle_ties
from compressor.utils.consent import is_code_trusted
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.out_of_memory import is_out_of_memory
from compressor.utils.revisions import hub_keywords

#: Buffers that older transformers stored and newer ones compute.
_BUFFERS = ("position_ids", "token_type_ids", "masked_bias", "inv_freq")


def load_model(
    location: str | Path,
    attn_implementation: str = "sdpa",
    *,
    notes: list[str] | None = None,
    mapped: bool = False,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> PreTrainedModel:
    """Load a model in float32, in eval mode, on the CPU; later changes of its files do not affect it.

    Args:
        location: a folder or a Hub id.
        attn_implementation: "eager" for classes without SDPA.
        notes: gets lines on ignored weights and code.
        mapped: keep weights mapped to their files, for measuring memory.
        dtype: another than float32; "auto" for that of the files.

    Raises:
        UserError: missing, unreadable, mismatched or infinite weights or config, or changes while read.
    """
    with check_unchanged(Path(location)):
        model = _load(location, attn_implementation, notes, dtype)
        if not mapped:
            copy_out_of_files(model)
    check_finite_weights(str(location), model)
    return model.eval()


def _load(
    location: str | Path, attn_implementation: str, notes: list[str] | None, dtype: torch.dtype | Literal["auto"]
) -> PreTrainedModel:
    folder = Path(location)
    config = read_config(location)
    settled = settle_padding(config, location)
    cls = model_class(config)
    if folder.is_dir():
        check_weight_files(folder)
    attention = fast_attention(config) if attn_implementation == "sdpa" else attn_implementation
    try:
        with quiet_transformers(), without_adapter(location) as place:
            loaded: Any = cls.from_pretrained(
                **hub_keywords(place),
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                # So that they are listed, and refused below in one line.
                ignore_mismatched_sizes=True,
                trust_remote_code=is_code_trusted(),
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, SafetensorError | OSError):
            raise UserError(f"cannot read the weights of {location}: {one_line(error)}") from error
        # Any other error of transformers has its cause in the files.
        raise UserError(f"cannot build {cls.__name__} from {location}: {one_line(error)}") from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    set_pooling(model.config, pooling_of(config))
    read_projection(location, with_embedding(model))
    model.name_or_path = model.config._name_or_path = str(location)
    if settled is not None:
        set_padding(model.config, settled.token)
        if notes is not None and settled.note:
            notes.append(settled.note)
    ties, info["missing_keys"] = settle_ties(model, info["missing_keys"])
    if is_pooler_missing(model, info["missing_keys"]):
        leave_out_pooler(model)
        info["missing_keys"] = []
    if ties and notes is not None:
        notes.append(f"{location}: {ties}")
    left_out = [name for name in sorted(info["unexpected_keys"]) if is_of_another_head(model, name)]
    missing = info["missing_keys"]
    wrapper = wrapper_of(info["unexpected_keys"], missing) if missing else None
    check_loaded(location, {**info, "unexpected_keys": set(info["unexpected_keys"]) - set(left_out)}, wrapper)
    if forget_code(model.config) and notes is not None:
        notes.append(code_not_run(location))
    if is_own(type(model)) and notes is not None:
        notes.append(code_run(location))
    if (note := adapter_note(location)) and notes is not None:
        notes.append(note)
    if left_out and notes is not None:
        notes.append(f"{location} also holds weights that {cls.__name__} does not use: {_first(left_out)}")
    return model


def is_of_another_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a stored weight without a place is of another head, not a mismatch.

    Checkpoints may carry heads of other tasks and the body's pooler. Names of such weights leave the model outside the
    body, or at a module of the model type that this class leaves out.

    Args:
        name: as the model would call it.
    """
    *path, last = name.split(".")
    if last in _BUFFERS:
        return True
    module: torch.nn.Module = model
    body = getattr(model, model.base_model_prefix, model)
    inside = module is body
    for part in path:
        child = dict(module.named_children()).get(part)
        if child is None:
            if module is model:
                return True
            return not inside or (module is body and _body_may_have(model.config, part))
        module = child
        inside = inside or module is body
    return False


def _body_may_have(config: PretrainedConfig, child: str) -> bool:
    """Whether the headless model has that module."""
    base = MODEL_MAPPING.get(type(config), None)
    if not isinstance(base, type):
        return False
    with quiet_transformers(), torch.device("meta"):
        return hasattr(base(copy.deepcopy(config)), child)


def check_loaded(location: str | Path, info: dict, wrapper: str | None) -> None:
    """Refuse weights that transformers would randomise, drop or resize; `wrapper` may tell why."""
    problems = []
    if info["missing_keys"]:
        problems.append(f"missing {_first(info['missing_keys'])}")
    if info["unexpected_keys"]:
        problems.append(f"left over {_first(info['unexpected_keys'])}")
    if info["mismatched_keys"]:
        shapes = [f"{name} (stored {_shape(a)}, config {_shape(b)})" for name, a, b in info["mismatched_keys"]]
        problems.append(f"other shapes {_first(shapes)}")
    problems += [one_line(RuntimeError(message)) for message in info.get("error_msgs") or ()]
    if wrapper is not None:
        problems.append(wrapper)
    if problems:
        raise UserError(f"the config of {location} does not match its weights: {'; '.join(problems)}")


def _first(names: list[str] | set[str], count: int = 2) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - count} more" if len(ordered) > count else ""
    return ", ".join(ordered[:count]) + rest


def _shape(size: torch.Size) -> str:
    return "×".join(str(n) for n in size)

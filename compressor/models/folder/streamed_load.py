"""Open a model without reading its weights, which follow block by block (`compressor.models.streamed`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from compressor.errors import UnsupportedError, UserError
from compressor.models.configs.own_code import code_not_run, code_run, forget_code, is_own
from compressor.models.configs.reading import fast_attention, read_config
from compressor.models.finite import check_finite_weights
from compressor.models.folder.padding import set_padding, settle_padding
from compressor.models.folder.weight_files import check_weight_files, stored_files, stored_precision
from compressor.models.folder.weights import check_loaded, is_of_another_head
from compressor.models.headless.pooler import is_pooler_missing, leave_out_pooler
from compressor.models.headless.sentence_pooling import pooling_of
from compressor.models.streamed import StoredWeights, WeightBlocks, weightless_model
from compressor.utils.logging import one_line


def open_model(location: str | Path, *, notes: list[str] | None = None) -> PreTrainedModel:
    """A model in evaluation mode on the CPU that computes in float32 and reads its weights when they are needed.

    The files must not change while it is used.

    Args:
        location: a local folder.
        notes: gets lines on code that was not run.

    Raises:
        UserError: no folder; missing, unreadable, mismatched or infinite weights.
        UnsupportedError: weights stored in another arrangement than the model's, or a projection apart from them.
    """
    folder = Path(location)
    if not folder.is_dir():
        raise UserError(f"{location} is no local folder: to read it layer by layer, download it first (hf download)")
    config = read_config(location)
    pooling = pooling_of(config)
    if pooling is not None and pooling.projection:
        raise UnsupportedError(f"the projection of {location} is read with its whole model: leave out --max-memory")
    padding = settle_padding(config, location)
    check_weight_files(folder)
    model = weightless_model(config, torch.float32, attn_implementation=fast_attention(config))
    model.name_or_path = model.config._name_or_path = str(location)
    if padding is not None:
        set_padding(model.config, padding.token)
        if notes is not None and padding.note:
            notes.append(padding.note)
    if forget_code(model.config) and notes is not None:
        notes.append(code_not_run(location))
    if is_own(type(model)) and notes is not None:
        notes.append(code_run(location))
    try:
        places = _places(model, stored_files(folder))
        weights = StoredWeights(_checked(model, places, location))
        precision = stored_precision(folder)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in places:
                    buffer.copy_(StoredWeights(places)[name])
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read the weights of {location}: {one_line(error)}") from error
    if model.can_generate() and (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    WeightBlocks(model, weights, precision)
    check_finite_weights(str(location), model)
    return model


def _places(model: PreTrainedModel, files: Mapping[str, Path]) -> dict[str, tuple[Path, str]]:
    """{name in the model: file and name in it}; files keep older names, which transformers translates."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.integrations.accelerate import accelerate_disk_offload

    paths = [str(path) for path in dict.fromkeys(files.values())]
    metadata = {"weight_map": {name: path.name for name, path in files.items()}}
    index: dict[str, Any] = accelerate_disk_offload(
        model, None, paths, {"": "disk"}, metadata, get_model_conversion_mapping(model)
    )
    return {name: (Path(entry["safetensors_file"]), entry["weight_name"]) for name, entry in index.items()}


def _checked(
    model: PreTrainedModel, places: Mapping[str, tuple[Path, str]], location: str | Path
) -> dict[str, tuple[Path, str]]:
    """Places of the model's parameters.

    Raises:
        UserError, UnsupportedError: files and config do not fit.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    chosen, missing = {}, []
    for aliases in names.values():
        stored = [name for name in aliases if name in places]
        if not stored:
            missing.append(aliases[0])
            continue
        chosen[aliases[0]] = places[stored[0]]
        _check_tied(places, stored, location)
    if is_pooler_missing(model, missing):
        leave_out_pooler(model)
        missing = []
    known = {entry[1] for entry in places.values()}
    unread = {name for name in stored_files(Path(location)) if name not in known}
    unexpected = {name for name in unread if not is_of_another_head(model, name)}
    if missing and unexpected:
        raise UnsupportedError(
            f"{location} stores {missing[0]} in another arrangement than {type(model).__name__} has, so it cannot be "
            f"read layer by layer: leave --max-memory out, or save the model again in the model's own arrangement"
        )
    shapes, parameters = StoredWeights(chosen).shapes, dict(model.named_parameters())
    odd = [(name, shapes[name], parameters[name].shape) for name in chosen if shapes[name] != parameters[name].shape]
    info = {"missing_keys": missing, "unexpected_keys": unexpected, "mismatched_keys": odd}
    check_loaded(location, info, None)
    return chosen


def _check_tied(places: Mapping[str, tuple[Path, str]], names: list[str], location: str | Path) -> None:
    """Refuse stored weights that differ although the config ties them."""
    apart = [name for name in names[1:] if places[name] != places[names[0]]]
    weights = StoredWeights(places)
    for name in apart:
        if not torch.equal(weights[name], weights[names[0]]):
            raise UserError(
                f"{location} ties {name} to {names[0]} by its config, but stores two: save it with "
                "tie_word_embeddings false to read it layer by layer"
            )

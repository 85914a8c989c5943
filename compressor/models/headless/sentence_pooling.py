"""Sentence-embedding models: a model without a head, a pooling over its tokens, perhaps a linear map and a norm.

sentence-transformers keeps these as modules of a folder.  Here they are a field of the config, and a hook adds the
embeddings [B, d] to the outputs of every model that is built from it.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.utils import cached_file

from compressor.errors import UserError
from compressor.utils.input_files import MIB, read_json
from compressor.utils.revisions import split_revision

#: The config's field, and the attribute of a model with its linear map.
POOLING_FIELD, PROJECTION = "sentence_pooling", "sentence_projection"
#: The output of a sentence-embedding model, besides those of its class.
EMBEDDING = "sentence_embedding"
MODULES_FILE = "modules.json"
#: Poolings by the names of sentence-transformers.
_MODES = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Keys of a pooling that give the model's width.
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")
#: Activations that leave a linear map linear.
_LINEAR = ("torch.nn.modules.linear.Identity", "torch.nn.Identity")
#: Least norm of an embedding, as in torch.
_LEAST_NORM = 1e-12


@dataclass(frozen=True)
class SentencePooling:
    """How states of tokens [B, T, n] become an embedding.

    Attributes:
        mode: a pooling of sentence-transformers.
        normalise: whether embeddings have length one.
        projection: folder of the linear map after the pooling; None without one.
    """

    mode: str
    normalise: bool = False
    projection: str | None = None

    def pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """States [B, T, n] of the tokens under a mask [B, T] as one vector each, [B, n]."""
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        counted = mask[..., None].to(hidden)
        if self.mode == "cls":
            return _at(hidden, mask.long().argmax(1))
        if self.mode == "lasttoken":
            return _at(hidden, mask.shape[1] - 1 - mask.long().flip(1).argmax(1))
        if self.mode == "max":
            return hidden.masked_fill(counted == 0, torch.finfo(hidden.dtype).min).amax(1)
        if self.mode == "weightedmean":
            counted = counted * counted.cumsum(1)
        total, count = (hidden * counted).sum(1), counted.sum(1).clamp(min=1e-9)
        return total / (count.sqrt() if self.mode == "mean_sqrt_len_tokens" else count)


@dataclass(eq=False)
class SentenceProjection:
    """The linear map after the pooling: x Wᵀ + b.

    Attributes:
        weight: [d, n].
        bias: [d], or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, pooled: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(pooled)
        return functional.linear(pooled, self.weight.to(pooled), bias)


def pooling_of(config: PretrainedConfig) -> SentencePooling | None:
    """The pooling of a sentence-embedding model; None of others."""
    values = getattr(config, POOLING_FIELD, None)
    if not isinstance(values, Mapping) or values.get("mode") not in _MODES:
        return None
    return SentencePooling(values["mode"], bool(values.get("normalise")), values.get("projection"))


def set_pooling(config: PretrainedConfig, pooling: SentencePooling | None) -> None:
    """Note a pooling in a config, or that there is none."""
    if pooling is not None:
        setattr(config, POOLING_FIELD, asdict(pooling))
    elif hasattr(config, POOLING_FIELD):
        delattr(config, POOLING_FIELD)


def projection_of(model: nn.Module) -> SentenceProjection | None:
    """The linear map of a model, if any."""
    return getattr(model, PROJECTION, None)


def sentence_embeddings(model: nn.Module, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Embeddings [B, d] of a sentence-embedding model from its last states [B, T, n]."""
    pooling = pooling_of(model.config)  # type: ignore[arg-type]
    assert pooling is not None
    mask = inputs.get("attention_mask")
    pooled = pooling.pool(hidden, mask if mask is not None and mask.shape == hidden.shape[:2] else None)
    if (projection := projection_of(model)) is not None:
        pooled = projection(pooled)
    return functional.normalize(pooled, dim=-1, eps=_LEAST_NORM) if pooling.normalise else pooled


def with_embedding(model: Any) -> Any:
    """The model, whose outputs have `EMBEDDING` from now on if its config names a pooling."""
    if pooling_of(model.config) is not None and _add_embedding not in model._forward_hooks.values():
        model.register_forward_hook(_add_embedding, with_kwargs=True)
    return model


def _add_embedding(model: nn.Module, _: Any, inputs: Mapping[str, Any], output: Any) -> None:
    if isinstance(output, MutableMapping):
        output[EMBEDDING] = sentence_embeddings(model, output["last_hidden_state"], inputs)


def read_pooling(location: str | Path, config: PretrainedConfig) -> None:
    """Note in a headless model's config how its folder pools tokens, if sentence-transformers says so.

    Modules that are not known here (code of their own, several poolings, other activations) leave it a plain model.

    Raises:
        UserError: the folder's modules do not fit together.
    """
    names = config.architectures or [""]
    if not names[0].endswith(("Model", "Encoder")) or names[0].endswith("LMHeadModel"):
        return
    modules = read_json_of(location, MODULES_FILE)
    if modules is not None:
        known = isinstance(modules, list) and all(isinstance(module, dict) for module in modules)
        set_pooling(config, _pooling(location, modules, getattr(config, "hidden_size", None)) if known else None)


def _pooling(location: str | Path, modules: list[dict[str, Any]], width: int | None) -> SentencePooling | None:
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    places = {kind: str(module.get("path", "")) for kind, module in zip(kinds, modules, strict=True)}
    rest = [kind for kind in kinds[2:] if kind not in ("Dense", "Normalize")]
    if kinds[:2] != ["Transformer", "Pooling"] or places["Transformer"] or rest or len(set(kinds)) < len(kinds):
        return None
    if not all(str(module.get("type")).startswith("sentence_transformers.") for module in modules):
        return None
    values = read_json_of(location, f"{places['Pooling']}/config.json")
    mode = _mode(values)
    if mode is None or width is None or all(values.get(key) != width for key in _WIDTHS):
        return None
    if "Dense" in places and not _is_linear(read_json_of(location, f"{places['Dense']}/config.json")):
        return None
    # Norm, then a linear map, would be another model.
    if kinds[-1] != "Normalize" and "Normalize" in kinds:
        return None
    return SentencePooling(mode, "Normalize" in kinds, places.get("Dense"))


def _mode(values: Any) -> str | None:
    """The one pooling of a config; None for several, and where prompts are left out."""
    if not isinstance(values, Mapping) or values.get("include_prompt") is False:
        return None
    named = values.get("pooling_mode")
    named = [named] if isinstance(named, str) else named
    modes = named if isinstance(named, list) else [mode for key, mode in LEGACY_MODES.items() if values.get(key)]
    return modes[0] if len(modes) == 1 and modes[0] in _MODES else None


def _is_linear(values: Any) -> bool:
    if not isinstance(values, Mapping) or values.get("use_residual"):
        return False
    names = {values.get(key, "sentence_embedding") for key in ("module_input_name", "module_output_name")}
    return values.get("activation_function") in _LINEAR and names <= {"sentence_embedding", None}


def file_of(location: str | Path, name: str) -> Path | None:
    """A file of a folder or of the Hub; None if there is none."""
    if Path(location).is_dir():
        path = Path(location) / name
        return path if path.is_file() else None
    repository, revision = split_revision(str(location))
    found = cached_file(
        repository, name, revision=revision, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def read_json_of(location: str | Path, name: str) -> Any:
    """A small file of a folder or of the Hub as JSON; None if there is none.

    Raises:
        UserError: it is unreadable.
    """
    path = file_of(location, name)
    if path is None:
        return None
    try:
        return read_json(path, MIB)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} of sentence-transformers: {error}") from None


def _at(hidden: Tensor, places: Tensor) -> Tensor:
    """One token of each text [B, n]."""
    return hidden.gather(1, places[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]

"""Folders with an adapter (LoRA), and weights with names that wrappers gave them."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import UserError
from compressor.utils.input_files import MIB, read_json
from compressor.wording import shorten

ADAPTER_CONFIG = "adapter_config.json"
#: Weights of an adapter; all other weights are a model's.
ADAPTER_WEIGHTS = re.compile(r"adapter_model.*\.(safetensors|bin)")
_WHOLE_WEIGHTS = (".safetensors", ".bin", ".gguf")
#: Of the Trainer; no weights of a model.
_OTHER_BINARIES = ("training_args.bin", "optimizer.bin")
#: {prefix of all weights: who gives it, and what to save instead}.
_WRAPPERS = {
    "module.": "DataParallel and DistributedDataParallel (save model.module)",
    "_orig_mod.": "torch.compile (save model._orig_mod)",
    "base_model.model.": "peft (save model.merge_and_unload())",
    "_fsdp_wrapped_module.": "FSDP (save a full state dict)",
    "_forward_module.": "Lightning Fabric (save the module inside)",
    "_checkpoint_wrapped_module.": "an activation checkpoint wrapper (save the module inside)",
    "model.": "a wrapper such as a LightningModule (save its .model)",
}
_WRAPPED = re.compile("|".join(re.escape(prefix) for prefix in _WRAPPERS))
_UNMERGED = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|ia3_l|hada_w\d)\w*(\.|$)")


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter where a model should be.

    Raises:
        UserError: names the model that it adapts, and how to merge both.
    """
    names = [path.name for path in folder.iterdir()]
    adapter = any(name == ADAPTER_CONFIG or ADAPTER_WEIGHTS.fullmatch(name) for name in names)
    whole = "config.json" in names and any(
        name.endswith(_WHOLE_WEIGHTS) and not ADAPTER_WEIGHTS.fullmatch(name) and name not in _OTHER_BINARIES
        for name in names
    )
    if whole or not adapter:
        return
    kind, base = _about(folder)
    raise UserError(
        f"{folder} holds only {kind} of {base}, not a whole model: merge them "
        f"(peft: PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(other)) and give the result"
    )


def adapter_note(location: str | Path) -> str | None:
    """A line on an adapter beside whole weights; None without."""
    if not (Path(location) / ADAPTER_CONFIG).is_file():
        return None
    kind, base = _about(Path(location))
    return (
        f"{location} also holds {kind} of {base} ({ADAPTER_CONFIG}), which was not applied: its whole weights were read"
    )


@contextmanager
def without_adapter(location: str | Path) -> Iterator[str | Path]:
    """A model's location without its adapter, which transformers would apply where peft is installed."""
    folder = Path(location)
    if not (folder / ADAPTER_CONFIG).is_file():
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="compressor-") as scratch:
        for path in folder.iterdir():
            if path.name != ADAPTER_CONFIG and not ADAPTER_WEIGHTS.fullmatch(path.name):
                os.symlink(path.absolute(), Path(scratch, path.name))
        yield scratch


def wrapper_of(left_over: Iterable[str], missing: Iterable[str]) -> str | None:
    """A line on the wrapper that gave stored weights their names; None if none did.

    Args:
        left_over: stored names without a place in the model.
        missing: names in the model that are not stored.
    """
    names = list(left_over)
    if any(_UNMERGED.search(name) for name in names):
        return "they hold an adapter that is not merged (peft: save model.merge_and_unload())"
    prefixes = Counter(_prefix(name) for name in names)
    prefix, count = prefixes.most_common(1)[0] if prefixes else ("", 0)
    if not prefix or 2 * count <= len(names) or any(name.startswith(prefix) for name in missing):
        return None
    first = _WRAPPED.match(prefix)
    assert first is not None
    return f"their names begin with {prefix!r}, as of {_WRAPPERS[first[0]]}"


def _prefix(name: str) -> str:
    """Prefixes of wrappers, one in another."""
    end = 0
    while match := _WRAPPED.match(name, end):
        end = match.end()
    return name[:end]


def _about(folder: Path) -> tuple[str, str]:
    """Kind of an adapter, and the model that it adapts."""
    try:
        values = read_json(folder / ADAPTER_CONFIG, MIB)
    except (OSError, ValueError):
        values = None
    values = values if isinstance(values, dict) else {}
    kind, base = values.get("peft_type"), values.get("base_model_name_or_path")
    named = f"a {shorten(kind)} adapter" if isinstance(kind, str) and kind else "an adapter"
    return named, shorten(base) if isinstance(base, str) and base else "a model that it does not name"

"""Files in a model's folder that hold for a narrower model too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.models.configs.bounds import FILE_BYTES
from compressor.models.configs.own_code import AUTO_MAP
from compressor.utils.consent import is_code_trusted
from compressor.utils.input_files import check_regular
from compressor.utils.logging import one_line
from compressor.wording import shorten

#: Files of preprocessors and tokenizers: `vocab_files_names` of all of them.
PROCESSOR_NAMES = frozenset({
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
    "chat_template.jinja", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
    "sentencepiece.model", "spm.model", "spm_char.model", "bpe.codes", "entity_vocab.json", "prophetnet.tokenizer",
    "byte_maps.json", "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "source.spm", "target.spm",
    "normalizer.json", "emoji.json", "dict.txt", "word_shape.json", "word_pronunciation.json",
})  # fmt: skip
MODULES, GENERATION = "modules.json", "generation_config.json"
#: Files of sentence-transformers, and licences.
SENTENCE_NAMES = frozenset({
    MODULES, "config_sentence_transformers.json", "sentence_bert_config.json", "sentence_roberta_config.json",
    "sentence_distilbert_config.json", "sentence_camembert_config.json", "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json",
})  # fmt: skip
LICENCE_NAMES = frozenset({"LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "NOTICE.md"})
#: Folders of modules of sentence-transformers.
MODULE_FOLDER = re.compile(r"\d+_[A-Za-z]+")

_CARRIED = PROCESSOR_NAMES | SENTENCE_NAMES | LICENCE_NAMES
#: Written for each model anew, or of other runs.
_OWN = re.compile(
    r"config\.json|generation_config\.json|README\.md|report\.(json|html)|recipe\.yaml|transport\.npz|onnx|torch|\..*"
    r"|additional_chat_templates|.*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx)|.*\.index\.json"
)
#: Written by a loaded processor itself.
_OF_PROCESSOR = {
    True: {"preprocessor_config.json", "processor_config.json"},
    False: {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"},
}
#: Keys of a pooling that give the model's width.
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")
_WIDTH_KEY = re.compile(r"dim|hidden|width|d_model|in_features|out_features")
#: Modules of sentence-transformers without weights.
_LIBRARY, _POOLING, _WITHOUT_FILES = "sentence_transformers.", "Pooling", ("Normalize",)


@dataclass
class FolderFiles:
    """Files of one folder.

    Attributes:
        files: {path: content} that go along; widths of `pooling` are 0.
        modules: paths that are of use only together.
        left: {path: reason, or ""}.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    pooling: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)


class _LeftError(Exception):
    """A file that does not go along; the reason."""


def read_folder(folder: Path, width: int | None, processor: Any | None, *, modules: bool = True) -> FolderFiles:
    """Read what goes along, and name the rest; weights, configs and documents of runs are not mentioned.

    Args:
        width: of the model.
        processor: loaded from the folder; its own files are left to it.
        modules: whether modules of sentence-transformers go along as they are; else the model knows them.
    """
    found = FolderFiles()
    own = set() if processor is None else _OF_PROCESSOR[hasattr(processor, "image_mean")]
    for path in sorted(folder.iterdir()):
        name = path.name
        if name == GENERATION and not _is_object(folder, name):
            # transformers takes the settings of config.json instead, without a word.
            found.left[name] = "no JSON of settings"
        if name in own or name == MODULES or _OWN.fullmatch(name) or MODULE_FOLDER.fullmatch(name):
            continue
        if path.suffix == ".py" and is_code_trusted():
            # Saving a model or processor copies the code that it needs.
            continue
        if path.is_dir() or name not in _CARRIED:
            found.left[name] = "code, which is not copied" if path.suffix == ".py" else ""
            continue
        try:
            found.files[name] = _read(folder, name, width)
        except _LeftError as reason:
            found.left[name] = str(reason)
    if modules:
        _add_modules(folder, width, found)
    return found


def with_width(content: bytes, width: int) -> bytes:
    """A pooling's config for a model of that width."""
    values = json.loads(content)
    values |= {key: width for key in _WIDTHS if key in values}
    return (json.dumps(values, indent=2) + "\n").encode()


def _add_modules(folder: Path, width: int | None, found: FolderFiles) -> None:
    """Add the modules of sentence-transformers, all or none."""
    if not (folder / MODULES).is_file():
        return
    try:
        poolings = dict(_poolings(folder, width))
        files = {MODULES: _read(folder, MODULES, width), **poolings}
    except _LeftError as reason:
        found.left[MODULES] = str(reason)
        return
    found.files |= files
    found.pooling |= set(poolings)
    found.modules |= set(files)


def _poolings(folder: Path, width: int | None) -> Iterator[tuple[str, bytes]]:
    """(path, config with width 0) of the poolings that modules.json names."""
    modules = _values(_bytes(folder, MODULES))
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise _LeftError("no list of modules")
    for module in modules:
        kind, place = str(module.get("type")), str(module.get("path", ""))
        last = kind.rpartition(".")[2]
        if not kind.startswith(_LIBRARY):
            raise _LeftError(f"its module {shorten(kind)} is code of its own")
        if last == "Transformer" and place == "":
            continue
        if not MODULE_FOLDER.fullmatch(place):
            raise _LeftError(f"its module {last} is in {shorten(place)!r}")
        if last == _POOLING:
            yield f"{place}/config.json", _pooling(folder, f"{place}/config.json", width)
        elif last not in _WITHOUT_FILES:
            raise _LeftError(f"its module {place} has weights or sizes of the teacher's width")


def _pooling(folder: Path, name: str, width: int | None) -> bytes:
    values = _values(_bytes(folder, name))
    keys = [key for key in _WIDTHS if isinstance(values, dict) and key in values]
    if not keys or any(values[key] != width for key in keys):
        raise _LeftError(f"{name} does not give the model's width, {width}, as its own")
    return json.dumps({**values, **dict.fromkeys(keys, 0)}).encode()


def _read(folder: Path, name: str, width: int | None) -> bytes:
    """A file's content, if it holds for another width."""
    content = _bytes(folder, name)
    # Not vocabularies, whose keys may be any word.
    if name in SENTENCE_NAMES or "config" in name:
        entries = dict(_entries(_values(content)))
        if AUTO_MAP in entries or entries.get("trust_remote_code"):
            raise _LeftError("names code of its own")
        if width is not None and any(_WIDTH_KEY.search(key) and value == width for key, value in entries.items()):
            raise _LeftError(f"names the teacher's width, {width}")
    return content


def _bytes(folder: Path, name: str) -> bytes:
    path = folder / name
    root, real = folder.resolve(), path.resolve()
    # The cache of the Hub has links from snapshots/ID to blobs.
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if not (real.is_relative_to(root) or real.is_relative_to(blobs)):
        raise _LeftError("a link out of the folder")
    try:
        check_regular(path, FILE_BYTES)
        return path.read_bytes()
    except (OSError, UserError) as error:
        raise _LeftError(one_line(error)) from None


def _is_object(folder: Path, name: str) -> bool:
    try:
        return isinstance(_values(_bytes(folder, name)), dict)
    except _LeftError:
        return False


def _values(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise _LeftError("no JSON") from None


def _entries(values: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of an object and of those directly in it."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield str(key), value
            yield from ((str(inner), item) for inner, item in value.items()) if isinstance(value, Mapping) else ()

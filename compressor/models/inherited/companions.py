"""Files of teachers' folders that hold for a student too: chat template, pooling, prompts, vocabularies, licence."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from compressor.models.headless.sentence_pooling import pooling_of
from compressor.models.inherited.companion_files import FolderFiles, read_folder, with_width
from compressor.models.resolve import local_files
from compressor.models.teacher import Teacher
from compressor.utils.logging import quiet_transformers

#: Most names in one note.
_NAMES = 6
#: Settings of a tokenizer that may differ between teachers of one vocabulary.
_TOKENIZER_SETTINGS = ("special_tokens_map", "model_max_length", "padding_side", "truncation_side")


@dataclass(frozen=True)
class Companions:
    """What a student's folder holds besides its weights and configs.

    Attributes:
        processor: image processor or tokenizer, if any.
        files: {path in the folder: content}.
        pooling: paths whose width follows the student's.
        notes: lines on what the teachers differ in, and on what is left.
    """

    processor: Any | None = None
    files: Mapping[str, bytes] | None = None
    pooling: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def write(self, folder: Path, config: PretrainedConfig) -> None:
        """Write all into a student's folder; the processor's own files go before those of the teachers."""
        if self.processor is not None:
            with quiet_transformers():
                self.processor.save_pretrained(folder)
        for name, content in (self.files or {}).items():
            path = folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(with_width(content, config.hidden_size) if name in self.pooling else content)


def read_companions(owners: Sequence[Teacher], processor: Any | None = None) -> Companions:
    """What the owners of a student's files agree in.

    Args:
        processor: taken if none of them has one.
    """
    folders = {}
    for owner in owners:
        if (place := local_files(owner.source)) is not None:
            width, plain = getattr(owner.config, "hidden_size", None), pooling_of(owner.config) is None
            folders[owner.name] = read_folder(place, width, owner.processor, modules=plain)
    agreed, notes = _agreed_processor(owners)
    files, differing = _agreed_files(folders)
    if differing:
        notes.append(f"the teachers differ in {', '.join(differing)}: left out")
    for name, folder in folders.items():
        if line := _left_line(folder.left):
            notes.append(f"not taken over from {name}: {line}")
    pooling = frozenset(name for folder in folders.values() for name in folder.pooling)
    return Companions(agreed if agreed is not None else processor, files, pooling, tuple(dict.fromkeys(notes)))


def _agreed_processor(owners: Sequence[Teacher]) -> tuple[Any | None, list[str]]:
    """The first processor, with the chat template in which all agree that have one."""
    named = {owner.name: owner.processor for owner in owners if owner.processor is not None}
    if not named:
        return None, []
    processor, notes = next(iter(named.values())), []
    for key in _TOKENIZER_SETTINGS:
        values = {name: str(getattr(of_one, key, None)) for name, of_one in named.items()}
        if len(set(values.values())) > 1:
            notes.append(f"the teachers' tokenizers differ in {key}: that of {next(iter(named))} is written")
    templates = {name: found for name, of_one in named.items() if (found := getattr(of_one, "chat_template", None))}
    agreed = next(iter(templates.values()), None)
    if any(template != agreed for template in templates.values()):
        notes.append(f"the teachers differ in chat_template ({', '.join(templates)}): left out")
        agreed = None
    if getattr(processor, "chat_template", None) != agreed:
        processor = copy.copy(processor)
        processor.chat_template = agreed
    return processor, notes


def _agreed_files(folders: Mapping[str, FolderFiles]) -> tuple[dict[str, bytes], list[str]]:
    """{path: content} of files in which all agree that have one, and the paths of the others."""
    files: dict[str, bytes] = {}
    differing: list[str] = []
    for name in dict.fromkeys(name for folder in folders.values() for name in folder.files):
        contents = [folder.files[name] for folder in folders.values() if name in folder.files]
        if all(_meaning(content) == _meaning(contents[0]) for content in contents):
            files[name] = contents[0]
        else:
            differing.append(name)
    modules = {name for folder in folders.values() for name in folder.modules}
    if modules & set(differing):
        # A list of modules is of use only with all of them.
        files = {name: content for name, content in files.items() if name not in modules}
        differing += sorted(modules - set(differing))
    return files, differing


def _meaning(content: bytes) -> Any:
    """The values of JSON without versions of libraries, else the content."""
    try:
        values = json.loads(content)
    except ValueError:
        return content
    if isinstance(values, dict):
        return {key: value for key, value in values.items() if key not in ("__version__", "transformers_version")}
    return values


def _left_line(left: Mapping[str, str]) -> str:
    names = list(_with_reasons(left))
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _with_reasons(left: Mapping[str, str]) -> Iterator[str]:
    for name, reason in left.items():
        yield f"{name} ({reason})" if reason else name

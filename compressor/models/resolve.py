"""Names of models: a local folder, built-in teacher or Hub id, in this order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.models.builtin import BUILTIN, builtin_config, builtin_folder
from compressor.models.configs.reading import read_config
from compressor.models.folder.padding import settle_padding
from compressor.models.folder.stored_ties import settle_stored_ties
from compressor.models.ties import can_be_tied
from compressor.utils.input_files import special_kind
from compressor.utils.logging import one_line
from compressor.utils.revisions import split_revision
from compressor.wording import shorten

#: Files besides weights that are worth a request; without code.
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "LICENSE*", "NOTICE*")


@dataclass(frozen=True)
class ModelSource:
    """The origin of a model.

    Attributes:
        name: as the user wrote it.
        location: a folder, which may not exist yet if built-in, or a Hub id, `@` a commit if a revision was named.
    """

    kind: Literal["folder", "builtin", "hub", "object"]
    name: str
    location: str


def resolve(name: str) -> ModelSource:
    """Find a model by name, or by `name@revision` of the Hub; without a connection, Hub ids in the local cache.

    Raises:
        UserError: not found, a file of that name, or a revision of what is not of the Hub.
    """
    path = Path(name).expanduser()
    # Methods of Path raise on names that are too long.
    if os.path.isdir(path):
        return ModelSource("folder", name, str(path))
    if (kind := special_kind(path)) is not None:
        raise UserError(f"{name} is {kind}: a model is a folder with config.json and safetensors weights")
    if os.path.isfile(path):
        raise UserError(f"{name} is a file: a model is a folder with config.json and safetensors weights")
    if name in BUILTIN:
        return ModelSource("builtin", name, str(builtin_folder(name)))
    repository, revision = split_revision(name)
    if revision is not None:
        _check_revision(name, repository, revision)
    try:
        # One request: without network, `from_pretrained` retries for half a minute.
        found = HfApi().model_info(repository, revision=revision, timeout=10)
    except HFValidationError:
        raise UserError(_not_found(name, "it is no valid Hub id")) from None
    except Exception as error:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise UserError(_not_found(name, f"not reachable on the Hub: {one_line(error)}")) from error
        return ModelSource("hub", name, str(Path(cached).parent))
    # A commit: a branch may move while its files are read.
    return ModelSource("hub", name, repository if revision is None else f"{repository}@{found.sha}")


def local_files(source: ModelSource) -> Path | None:
    """The folder with a model's files; for the Hub that of its cache, with the small files that are there."""
    if os.path.isdir(source.location):
        return Path(source.location)
    if source.kind != "hub":
        return None
    name, revision = split_revision(source.location)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_SMALL_FILES), etag_timeout=10))
    # Errors of the Hub and the network are of the first kind, impossible names of the second: then what is cached.
    except (OSError, ValueError):
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        return Path(cached).parent if isinstance(cached, str) else None


def load_config(name: str, notes: list[str] | None = None) -> PretrainedConfig:
    """A model's config by name, without training; weights are read only where its ties are in doubt.

    Args:
        notes: gets a line if the weights are not tied as the config says.

    Raises:
        UserError: unknown name, or an unusable config.json.
    """
    source = resolve(name)
    if source.kind == "builtin":
        return builtin_config(name)
    config, folder = read_config(source.location), Path(source.location)
    settle_padding(config, source.location)
    if folder.is_dir() and can_be_tied(config) and (note := settle_stored_ties(folder, config)) and notes is not None:
        notes.append(note)
    return config


def _check_revision(name: str, repository: str, revision: str) -> None:
    """Refuse a revision of a folder or a built-in teacher, and an empty one."""
    kind = "a built-in teacher" if repository in BUILTIN else "a folder" if os.path.isdir(repository) else None
    if kind is not None:
        raise UserError(
            f"{name}: {repository} is {kind}, and only models of the Hub have revisions: leave it out, or write it "
            "behind the names of the others, NAME@REVISION"
        )
    if not revision:
        raise UserError(f"{name} names no revision: write NAME@REVISION, a branch, a tag or a commit")


def _not_found(name: str, hub: str) -> str:
    return f"no model '{shorten(name)}': no such folder, not a built-in teacher ({', '.join(BUILTIN)}), and {hub}"

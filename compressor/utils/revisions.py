"""Revisions of the Hub in names of models: `user/model@revision`."""

from __future__ import annotations

import os
from typing import Any

#: What the Hub gives if no revision is named.
_MAIN = "main"


def at_revision(name: str, revision: str | None) -> str:
    """A name at a revision, unless it has one."""
    return name if revision is None or "@" in name else f"{name}@{revision}"


def split_revision(name: str) -> tuple[str, str | None]:
    """(name, revision); a folder whose name has an @ has none."""
    if os.path.isdir(os.path.expanduser(name)):
        return name, None
    # A Hub id has no @, a branch may have one.
    repository, sign, revision = name.partition("@")
    return repository, revision if sign else None


def hub_keywords(location: object) -> dict[str, Any]:
    """Keywords of transformers that say where a model is, and which revision of it."""
    name, revision = split_revision(str(location))
    return {"pretrained_model_name_or_path": name, "revision": revision or _MAIN}

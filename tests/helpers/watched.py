"""Watches a folder of files: what is in it before and after."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path


def snapshot(root):
    """{path inside the folder: what is there}, links not followed: a link's target, a file's hash, or "folder"."""
    found = {}
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            found[str(path.relative_to(root))] = _content(path)
    return found


def _content(path):
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    about = path.stat()
    return _hash(path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@functools.cache
def _hash(path, *about):
    """A file is read again once the system says that it was written, moved or linked since."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Code that a model brings along (`auto_map` in its files): it is never run, and no student names it."""

from __future__ import annotations

from typing import Any

from compressor.errors import UnsupportedError

#: Where transformers keeps the names of such code, in configs and preprocessors.
AUTO_MAP = "auto_map"


def forget_code(owner: Any) -> bool:
    """Remove what a config, image processor or tokenizer says of code of its own, so that it is not saved with it.

    Returns:
        Whether it named any.
    """
    # Tokenizers keep what they save in a dict.
    places = [vars(owner), getattr(owner, "init_kwargs", {})] if owner is not None else []
    return any([place.pop(AUTO_MAP, None) is not None for place in places])


def code_not_run(location: object) -> str:
    """The note on a model that was loaded without the code that it names."""
    return f"{location} names code of its own ({AUTO_MAP}), which was not run: classes of transformers took its place"


def code_needed(location: object, error: BaseException) -> UnsupportedError | None:
    """The error for a model that cannot be loaded without its own code; None if `error` is about something else.

    Args:
        location: a folder or a Hub id.
        error: what transformers raised under `trust_remote_code=False`.
    """
    if "trust_remote_code" not in str(error):
        return None
    return UnsupportedError(
        f"{location} needs code of its own ({AUTO_MAP}), which is never run: save it with classes of transformers"
    )

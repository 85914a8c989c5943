"""Preparing a model for tracing."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

from transformers import PreTrainedModel

from compressor.errors import UnsupportedError, UserError
from compressor.export.file_kinds import FileKind
from compressor.export.graphs import OnnxGraph
from compressor.utils.logging import one_line


def make_graph(kind: FileKind, model: PreTrainedModel, cache: bool) -> OnnxGraph:
    """The computation of a file.

    Raises:
        UnsupportedError: the model does not run that way.
    """
    try:
        return kind.graph(model, cache).eval()
    except UserError:
        raise
    # Models raise errors of any class on inputs that they do not support, such as a plain cache.
    except Exception as error:
        hint = ": leave out the files with past (cache=False)" if kind.cache else ""
        raise UnsupportedError(
            f"{type(model).__name__} does not run as {kind.name} needs it ({one_line(error)}){hint}"
        ) from error


@contextmanager
def traceable(model: PreTrainedModel) -> Iterator[None]:
    """Disable gradients, and loops over experts."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Not in all models and versions of transformers.
    can_set = getattr(model, "_can_set_experts_implementation", None)
    experts = model.get_experts_implementation() if can_set is not None and can_set() else None
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        if experts is not None:
            # Other implementations loop over the chosen experts, or call a kernel that ONNX does not have.
            model.set_experts_implementation("batched_mm")
        yield
    finally:
        if experts is not None:
            model.set_experts_implementation(experts)
        for parameter in trained:
            parameter.requires_grad_(True)


class _Muted:
    """A stream that drops this thread's output; a progress bar uses another thread."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def silence() -> Iterator[None]:
    """Suppress logs, warnings, and torch's prints of graphs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(_Muted(sys.stderr)):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

"""What a config says beyond its class: a model without its pooler, embeddings among its outputs."""

from __future__ import annotations

from typing import Any

from compressor.models.headless.pooler import without_pooler
from compressor.models.headless.sentence_pooling import with_embedding


def as_configured(model: Any) -> Any:
    """A model that was just built from its config, changed in place."""
    return with_embedding(without_pooler(model))

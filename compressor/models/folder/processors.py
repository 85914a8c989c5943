"""Image processors, feature extractors and tokenizers of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from compressor.errors import UserError
from compressor.models.configs.own_code import code_needed
from compressor.models.inputs import is_dual_config
from compressor.models.modalities import is_image_config, reads_sound
from compressor.models.tasks.table import find_task
from compressor.utils.consent import is_code_trusted
from compressor.utils.logging import one_line, quiet_transformers
from compressor.utils.revisions import hub_keywords
from compressor.wording import quote

# Without any of these, a folder has no preprocessor (images) or tokenizer (text).
_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def load_processor(location: str | Path, config: PretrainedConfig) -> Any | None:
    """A model's image processor, feature extractor of sounds (with a tokenizer if it writes text) or tokenizer, if any.

    Raises:
        UserError: unreadable.
        UnsupportedError: needs its own code.
    """
    auto, files = _loader(config)
    folder = Path(location)
    if folder.is_dir() and not any((folder / name).exists() for name in files):
        return None
    try:
        with quiet_transformers():
            return auto.from_pretrained(**hub_keywords(location), trust_remote_code=is_code_trusted())
    except Exception as error:
        if refused := code_needed(location, error):
            raise refused from error
        if not folder.is_dir() and isinstance(error, OSError):
            return None
        raise UserError(f"cannot read the preprocessor of {location}: {one_line(error)}") from error


def _loader(config: PretrainedConfig) -> tuple[Any, tuple[str, ...]]:
    """The class that loads a model's preprocessor, and the files of which it needs one."""
    if is_dual_config(config):
        return AutoProcessor, _IMAGE_FILES
    if is_image_config(config):
        return AutoImageProcessor, _IMAGE_FILES
    if not reads_sound(config):
        return AutoTokenizer, _TEXT_FILES
    writes = bool(config.architectures) and find_task(config).name in ("ctc", "seq2seq-lm")
    return AutoProcessor if writes else AutoFeatureExtractor, _IMAGE_FILES


def check_vocabulary(name: str, model: PreTrainedModel, processor: Any) -> list[str]:
    """Refuse a tokenizer with tokens that the model has no embedding of.

    Returns:
        A note if only the padding token is beyond: samples are padded with another.

    Raises:
        UserError: names the first such token.
    """
    if not hasattr(processor, "get_vocab"):
        return []
    embedding = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if not isinstance(embedding, int):
        return []
    beyond = {token: index for token, index in processor.get_vocab().items() if index >= embedding}
    if not beyond:
        return []
    about = f"but the vocabulary of the model has {embedding} tokens (ids 0 to {embedding - 1})"
    if set(beyond) == {processor.pad_token}:
        token = processor.pad_token
        return [f"the padding token {quote(token)} of {name} has the id {beyond[token]}, {about}: padded with another"]
    token = min(beyond, key=beyond.__getitem__)
    raise UserError(
        f"the tokenizer of {name} does not fit it: token {quote(token)} has the id {beyond[token]}, {about}; give the "
        "tokenizer that it was trained with, or resize its embedding (resize_token_embeddings)"
    )

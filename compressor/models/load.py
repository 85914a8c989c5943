"""Loading a teacher by name, with its preprocessor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, PretrainedConfig

from compressor.errors import UserError
from compressor.models.builtin import OnTrainingProgress, ensure_builtin
from compressor.models.configs import code_needed, code_not_run, forget_code
from compressor.models.finite import check_activations
from compressor.models.inputs import is_image_config
from compressor.models.resolve import resolve
from compressor.models.save import fingerprint
from compressor.models.tasks import find_task
from compressor.models.teacher import ModelSpec, Teacher
from compressor.models.weights import load_model
from compressor.utils.logging import one_line, quiet_transformers

# Without any of these, a folder has no preprocessor (images) or tokenizer (text).
_IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def load_teacher(
    name: str,
    *,
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    progress: OnTrainingProgress | None = None,
) -> Teacher:
    """Load a teacher by name.

    Args:
        name: a local folder, a built-in teacher (trained on first use) or a Hub id.
        progress: gets (share done, line) of this training.

    Raises:
        UserError: unknown name, broken or mismatched files, unusable weights, or no such device.
    """
    source = resolve(name)
    if source.kind == "builtin":
        ensure_builtin(name, progress)
    notes: list[str] = []
    model = load_model(source.location, attn_implementation, notes=notes).requires_grad_(False)
    processor = load_processor(source.location, model.config)
    if forget_code(processor) and (note := code_not_run(source.location)) not in notes:
        notes.append(note)
    check_activations(name, model)
    digest = fingerprint(model)
    _set_padding(model.config, processor)
    try:
        # Not annotated by transformers for strings.
        model.to(device)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot put {name} on device '{device}': {one_line(error)}") from error
    return Teacher(name, source, model, ModelSpec.of(model.config), processor, digest, tuple(notes))


def load_processor(location: str | Path, config: PretrainedConfig) -> Any | None:
    """A model's image processor or tokenizer, if any.

    Raises:
        UserError: unreadable.
        UnsupportedError: needs its own code.
    """
    auto, files = (AutoImageProcessor, _IMAGE_FILES) if is_image_config(config) else (AutoTokenizer, _TEXT_FILES)
    folder = Path(location)
    if folder.is_dir() and not any((folder / name).exists() for name in files):
        return None
    try:
        with quiet_transformers():
            return auto.from_pretrained(location, trust_remote_code=False)
    except Exception as error:
        if refused := code_needed(location, error):
            raise refused from error
        if not folder.is_dir() and isinstance(error, OSError):
            return None
        raise UserError(f"cannot read the preprocessor of {location}: {one_line(error)}") from error


def _set_padding(config: PretrainedConfig, processor: Any) -> None:
    """Set a missing `pad_token_id`: decoders classify by the last unpadded token."""
    if getattr(config, "pad_token_id", None) is None and find_task(config).name == "text-classification":
        tokens = (getattr(processor, name, None) for name in ("pad_token_id", "eos_token_id"))
        config.pad_token_id = next((token for token in tokens if token is not None), None)

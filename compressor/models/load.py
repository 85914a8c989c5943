"""Loading a teacher by name, with its preprocessor."""

from __future__ import annotations

from compressor.errors import UserError
from compressor.models.builtin import OnTrainingProgress, ensure_builtin
from compressor.models.configs.own_code import code_not_run, code_run, forget_code, is_own
from compressor.models.finite import check_activations
from compressor.models.folder.padding import give_padding_token
from compressor.models.folder.processors import check_vocabulary, load_processor
from compressor.models.folder.save import fingerprint
from compressor.models.folder.streamed_load import open_model
from compressor.models.folder.weight_files import stored_precision
from compressor.models.folder.weights import load_model
from compressor.models.resolve import resolve
from compressor.models.teacher import ModelSpec, Teacher
from compressor.utils.logging import one_line


def load_teacher(
    name: str,
    *,
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    progress: OnTrainingProgress | None = None,
    streamed: bool = False,
) -> Teacher:
    """Load a teacher by name.

    Args:
        name: a local folder, a built-in teacher (trained on first use) or a Hub id.
        progress: gets (share done, line) of this training.
        streamed: its weights are read layer by layer when they are needed.

    Raises:
        UserError: unknown name, broken or mismatched files, unusable weights, or no such device.
    """
    source = resolve(name)
    if source.kind == "builtin":
        ensure_builtin(name, progress)
    notes: list[str] = []
    if streamed:
        model = open_model(source.location, notes=notes)
    else:
        model = load_model(source.location, attn_implementation, notes=notes).requires_grad_(False)
    processor = load_processor(source.location, model.config)
    if forget_code(processor) and (note := code_not_run(source.location)) not in notes:
        notes.append(note)
    if is_own(type(processor)) and (note := code_run(source.location)) not in notes:
        notes.append(note)
    check_activations(name, model)
    digest = fingerprint(model)
    notes += check_vocabulary(name, model, processor)
    give_padding_token(model.config, processor)
    if not streamed:
        try:
            # Not annotated by transformers for strings.
            model.to(device)  # type: ignore[arg-type]
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"cannot put {name} on device '{device}': {one_line(error)}") from error
    precision = stored_precision(source.location)
    return Teacher(
        name, source, model, ModelSpec.of(model.config), processor, digest, tuple(notes), precision=precision
    )

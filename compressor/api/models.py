"""Models as the user gives them: one or several, by name or as objects."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.errors import UserError
from compressor.utils.revisions import at_revision
from compressor.wording import quote

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from compressor.fusion import FusionResult
    from compressor.models.teacher import Teacher
    from compressor.recipe.fusion import ClassesName

#: A folder, a built-in name, a Hub id, a model, or a result of `fuse` or `finetune`.
ModelLike: TypeAlias = "str | Path | PreTrainedModel | FusionResult"
#: One model or several.
ModelsLike: TypeAlias = "ModelLike | Sequence[ModelLike]"

#: What a model may be given as.
MODEL_KINDS = "a folder, a built-in name (vit-a, vit-b), a Hub id or a transformers model"
#: {what a wrapper of a model has: how to get at the model}.
_WRAPPERS = {
    "merge_and_unload": "merge the adapter first: give model.merge_and_unload()",
    "_orig_mod": "give its ._orig_mod",
    "module": "give its .module",
}


def list_models(
    given: Any, call: str, *, empty: bool = False, revision: str | None = None
) -> list[str | PreTrainedModel]:
    """The models of an argument, checked for their types alone; one model stands for a list of it.

    Args:
        call: for messages, such as "fuse: teachers".
        empty: whether none is allowed.
        revision: of the Hub, for names that have none.

    Raises:
        UserError: something else.
    """
    is_list = isinstance(given, Sequence | Iterator) and not isinstance(given, str | bytes | bytearray)
    entries = list(given) if is_list else [given]
    models = [_one_model(entry, f"{call}[{index}]" if is_list else call) for index, entry in enumerate(entries)]
    if not models and not empty:
        reason = "the iterator is used up" if isinstance(given, Iterator) else "the list is empty"
        raise UserError(f"{call}: {reason}: give a list of at least one model, each {MODEL_KINDS}")
    return [at_revision(model, revision) if isinstance(model, str) else model for model in models]


def one_model(given: Any, call: str) -> str | PreTrainedModel:
    """The same of an argument that takes one model.

    Raises:
        UserError: something else, or several.
    """
    models = list_models(given, call)
    if len(models) > 1:
        raise UserError(f"{call}: one model is wanted, and there are {len(models)}: call it for each")
    return models[0]


def _one_model(entry: Any, call: str) -> str | PreTrainedModel:
    from transformers import PreTrainedModel

    if isinstance(entry, str | os.PathLike):
        name = os.fspath(entry)
        if isinstance(name, str) and name:
            return name
        raise UserError(f"{call}: {name!r} names no model: give {MODEL_KINDS}")
    if isinstance(entry, PreTrainedModel):
        return entry
    held = getattr(entry, "model", None)
    if isinstance(held, PreTrainedModel) and not hasattr(entry, "state_dict"):
        # A result of ours, a pipeline or a trainer.
        return held
    raise UserError(f"{call}: {_describe(entry)}: {_remedy(entry)}")


def _describe(entry: Any) -> str:
    """Why something is no model."""
    kind = type(entry).__name__
    if entry is None:
        return "None is no model"
    if isinstance(entry, type):
        return f"{entry.__name__} is a class, not a model"
    if hasattr(entry, "model_type") and hasattr(entry, "to_dict"):
        return f"a {kind} has no weights"
    if hasattr(entry, "state_dict"):
        return f"a {kind} is no PreTrainedModel of transformers"
    if isinstance(entry, list | tuple):
        return f"a {kind} inside the list is no model"
    return f"{kind} {quote(entry)} is no model" if isinstance(entry, int | float) else f"a {kind} is no model"


def _remedy(entry: Any) -> str:
    if isinstance(entry, type):
        return f"make one with {entry.__name__}.from_pretrained(…)"
    if isinstance(entry, list | tuple):
        return "put all models into one list"
    if isinstance(entry, Mapping):
        return "give a list of its models"
    return next((remedy for name, remedy in _WRAPPERS.items() if hasattr(entry, name)), f"give {MODEL_KINDS}")


def names_of(models: Sequence[str | PreTrainedModel]) -> list[str]:
    """The user's names, or "model 0" for an object."""
    return [model if isinstance(model, str) else f"model {index}" for index, model in enumerate(models)]


def check_names(models: Sequence[str | PreTrainedModel]) -> None:
    """Refuse names that no Hub can have, before any of the others is looked up there.

    Raises:
        UserError: a file, or neither a folder, a built-in name nor a Hub id.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from compressor.models.builtin import BUILTIN
    from compressor.models.resolve import resolve
    from compressor.utils.revisions import split_revision

    for name in models:
        if not isinstance(name, str):
            continue
        if split_revision(name)[0] in BUILTIN or os.path.lexists(os.path.expanduser(name)):
            resolve(name)
            continue
        try:
            validate_repo_id(split_revision(name)[0])
        except HFValidationError:
            resolve(name)


def load_models(
    models: Sequence[str | PreTrainedModel],
    *,
    names: Sequence[str] | None = None,
    processor: Any | None = None,
    streamed: bool = False,
) -> list[Teacher]:
    """Load names, and describe objects, which stay as they are.

    Args:
        names: of all, for messages and reports; see `names_of`.
        processor: of all, instead of their own.
        streamed: weights are read layer by layer when they are needed.

    Raises:
        UserError: see `compressor.models.load.load_teacher`.
    """
    from dataclasses import replace

    from compressor.models.load import load_teacher

    if processor is not None and not callable(processor):
        raise UserError(
            f"processor: {quote(processor)} is no tokenizer or image processor: give one, such as "
            "AutoTokenizer.from_pretrained(…)"
        )
    teachers = []
    for name, model in zip(names or names_of(models), models, strict=True):
        teacher = load_teacher(model, streamed=streamed) if isinstance(model, str) else _as_teacher(name, model)
        teachers.append(teacher if processor is None else replace(teacher, processor=processor))
    return teachers


def _as_teacher(name: str, model: PreTrainedModel) -> Teacher:
    from compressor.models.folder.save import fingerprint
    from compressor.models.inputs import name_architecture
    from compressor.models.precision import precision_of
    from compressor.models.resolve import ModelSource
    from compressor.models.teacher import ModelSpec, Teacher

    name_architecture(model)
    # No path: nothing may take it for a folder.
    source = ModelSource("object", name, f"<{name}>")
    precision = precision_of([model])
    return Teacher(name, source, model, ModelSpec.of(model.config), None, fingerprint(model), precision=precision)


def fitted_together(
    teachers: Sequence[Teacher], classes: ClassesName = "same", student: Teacher | None = None
) -> list[Teacher]:
    """Teachers with common classes, which share the weights of those given.

    Args:
        classes: see `compressor.models.tasks.classes.match_classes`.
        student: a model that keeps its classes.

    Raises:
        UserError: they are no ensemble; preprocessors are compared where all are known.
    """
    from compressor.models.compatibility import check_compatible, check_compatible_configs
    from compressor.models.inherited.class_heads import with_common_classes
    from compressor.models.tasks.classes import teachers_choice

    choice = teachers_choice(classes, None if student is None else student.config)
    if all(teacher.source.kind != "object" for teacher in teachers):
        check_compatible(teachers, choice)
    else:
        check_compatible_configs([(teacher.name, teacher.config) for teacher in teachers], choice)
    return with_common_classes(teachers, classes, student)


def processor_of(teachers: Sequence[Teacher], call: str) -> Any:
    """The image processor or tokenizer of loaded models; an object's is looked for where it was loaded from.

    Raises:
        UserError: there is none.
    """
    if (processor := stored_processor(teachers)) is not None:
        return processor
    kind, samples = ("image processor", "images") if teachers[0].spec.is_image else ("tokenizer", "texts")
    raise UserError(
        f"{call}: {teachers[0].name} has no {kind} to turn {samples} into its inputs: give processor=, or batches of "
        f"model inputs ('{main_input(teachers[0].model)}')"
    )


def stored_processor(teachers: Sequence[Teacher]) -> Any | None:
    """The same, or None."""
    from compressor.models.load import load_processor
    from compressor.models.resolve import resolve

    for teacher in teachers:
        if teacher.processor is not None:
            return teacher.processor
        origin = str(getattr(teacher.model, "name_or_path", "") or "")
        if teacher.source.kind != "object" or not origin:
            continue
        try:
            processor = load_processor(resolve(origin).location, teacher.config)
        except UserError:
            # Moved since, or not reachable.
            continue
        if processor is not None:
            return processor
    return None


def main_input(model: PreTrainedModel) -> str:
    """The name of a model's first input, such as pixel_values."""
    return str(getattr(model, "main_input_name", "input_ids"))


@contextmanager
def on_disk(
    models: Sequence[str | PreTrainedModel], *, weights: bool = True, processor: Any | None = None
) -> Iterator[list[str]]:
    """Names of models for one block; objects are saved to a temporary folder meanwhile, as `model 0`."""
    from compressor.models.configs.own_code import copy_code
    from compressor.models.folder.save import save_student
    from compressor.models.inputs import name_architecture
    from compressor.utils.files import disk_full_as_user_error

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-")))
        stack.enter_context(disk_full_as_user_error(f"to {scratch}"))
        names = []
        for index, model in enumerate(models):
            if isinstance(model, str):
                names.append(model)
                continue
            name_architecture(model)
            folder = scratch / f"model {index}"
            if weights:
                stored = processor if processor is not None else stored_processor([_as_teacher(folder.name, model)])
                save_student(folder, model, stored)
            else:
                model.config.save_pretrained(folder)
                copy_code(model.config, folder)
            names.append(str(folder))
        yield names


def config_of(model: str | PreTrainedModel) -> PretrainedConfig:
    """A model's config, before any weight is read.

    Raises:
        UserError: an unusable name or config.
    """
    from compressor.models.inputs import name_architecture
    from compressor.models.resolve import load_config

    if isinstance(model, str):
        return load_config(model)
    name_architecture(model)
    return model.config

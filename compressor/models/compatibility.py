"""Checks that models can be one ensemble."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.models.inputs import pad_id, size_pair, text_config
from compressor.models.modalities import has_patches, is_audio_config, reads_sound
from compressor.models.tasks.classes import match_classes
from compressor.models.tasks.table import check_outputs, find_task
from compressor.models.teacher import ModelSpec, Teacher
from compressor.recipe.fusion import ClassesName

# Settings of a preprocessor, by the switch that turns them on.
_PREPROCESSING = {
    "do_resize": ("size", "resample"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}


def check_compatible_configs(
    named: Sequence[tuple[str, PretrainedConfig]],
    classes: ClassesName = "same",
    *,
    student: tuple[str, PretrainedConfig] | None = None,
) -> list[PretrainedConfig]:
    """Refuse configs that cannot be one ensemble; widths and depths may differ.

    Args:
        named: (user's name, config).
        classes, student: see `match_classes`.

    Returns:
        The configs, with their common classes; then the student's.

    Raises:
        UnsupportedError: a classifier without labels.
        UserError: model type, task, classes, image geometry, vocabulary or activation differ.
    """
    everyone = [*named, *([student] if student is not None else [])]
    (first, reference), *others = everyone
    for name, config in others:
        own, theirs = _properties(reference), _properties(config)
        for title in dict.fromkeys((*own, *theirs)):
            _check_same(title, (first, own.get(title)), (name, theirs.get(title)))
        _check_answers((first, reference), (name, config))
    for name, config in everyone:
        check_outputs(config, name)
    common = match_classes(named, classes, student=student)
    return [config if common is None else common.of(config) for _, config in everyone]


def check_compatible(teachers: Sequence[Teacher], classes: ClassesName = "same") -> None:
    """Refuse teachers that cannot be one ensemble.

    Args:
        classes: see `match_classes`.

    Raises:
        UserError: configs, preprocessors or a layer's parameters differ.
    """
    check_compatible_configs([(teacher.name, teacher.config) for teacher in teachers], classes)
    first, *others = teachers
    for teacher in others:
        for owner, partner in ((first, teacher), (teacher, first)):
            extra = sorted(_parameters(owner) - _parameters(partner))
            if extra:
                raise UserError(f"the teachers' parameters differ: {owner.name} has {extra[0]}, {partner.name} has not")
            if owner.processor is not None and partner.processor is None:
                raise UserError(
                    f"{partner.name} has no preprocessor and {owner.name} has one: copy it over if it fits both"
                )
        if first.processor is not None:
            _check_processors(first, teacher)


def _parameters(teacher: Teacher) -> set[str]:
    """Names of parameters and buffers, layer numbers as stars."""
    return {re.sub(r"\.\d+\.", ".*.", name) for name in teacher.model.state_dict()}


def _check_processors(first: Teacher, second: Teacher) -> None:
    processors: tuple[Any, Any] = (first.processor, second.processor)
    if all(hasattr(processor, "tokenizer") and hasattr(processor, "image_processor") for processor in processors):
        _check_images(first, second, [processor.image_processor for processor in processors])
        _check_tokenizers(first, second, [processor.tokenizer for processor in processors])
    elif first.spec.is_image:
        _check_images(first, second, processors)
    elif reads_sound(first.config):
        _check_extractors(first, second, processors)
    else:
        _check_tokenizers(first, second, processors)


def _check_images(first: Teacher, second: Teacher, processors: Sequence[Any]) -> None:
    if first.spec.task.logit_dims == 4:
        # Else masks have one class fewer, or not.
        reduced = [bool(getattr(processor, "do_reduce_labels", False)) for processor in processors]
        _check_same("preprocessor's do_reduce_labels", (first.name, reduced[0]), (second.name, reduced[1]))
    settings = [_image_settings(processor) for processor in processors]
    for key in sorted(settings[0].keys() | settings[1].keys()):
        _check_same(f"preprocessor's {key}", (first.name, settings[0].get(key)), (second.name, settings[1].get(key)))


def _check_extractors(first: Teacher, second: Teacher, processors: Sequence[Any]) -> None:
    settings = [json.loads(json.dumps(_extractor(each).to_dict(), default=str)) for each in processors]
    for key in sorted(settings[0].keys() & settings[1].keys()):
        _check_same(f"feature extractor's {key}", (first.name, settings[0][key]), (second.name, settings[1][key]))
    if all(hasattr(processor, "tokenizer") for processor in processors):
        _check_tokenizers(first, second, [processor.tokenizer for processor in processors])


def _check_tokenizers(first: Teacher, second: Teacher, processors: Sequence[Any]) -> None:
    vocabularies = [processor.get_vocab() for processor in processors]
    if vocabularies[0] != vocabularies[1]:
        token = min(vocabularies[0].items() ^ vocabularies[1].items())[0]
        raise UserError(
            f"the teachers' tokenizers differ: token {token!r} is {vocabularies[0].get(token)} in {first.name} and "
            f"{vocabularies[1].get(token)} in {second.name}"
        )
    if _tokenizer_rules(processors[0]) != _tokenizer_rules(processors[1]):
        raise UserError(f"the teachers' tokenizers differ: {first.name} and {second.name} split text differently")


def _extractor(processor: Any) -> Any:
    """What makes features of sounds."""
    return getattr(processor, "feature_extractor", processor)


def _image_settings(processor: Any) -> dict[str, Any]:
    """Effective settings of an image processor."""
    values = json.loads(json.dumps(processor.to_dict(), default=str))
    unused = {key for switch, keys in _PREPROCESSING.items() if not values.get(switch) for key in keys}
    known = {*_PREPROCESSING, *(key for keys in _PREPROCESSING.values() for key in keys)}
    return {key: values[key] for key in known - unused if values.get(key) not in (None, False)}


def _tokenizer_rules(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__
    rules = json.loads(backend.to_str())
    # Set by the last call, not by the files.
    return {key: value for key, value in rules.items() if key not in ("padding", "truncation")}


def _check_same(title: str, first: tuple[str, Any], second: tuple[str, Any]) -> None:
    if first[1] != second[1]:
        raise UserError(
            f"the teachers differ in {title}: {first[0]} has {_format(first[1])} and {second[0]} has "
            f"{_format(second[1])}"
        )


def _check_answers(first: tuple[str, PretrainedConfig], second: tuple[str, PretrainedConfig]) -> None:
    """Refuse other names of answers that are not matched by name."""
    if find_task(first[1]).name != "unscored":
        return
    names, others = (ModelSpec.of(config).labels for _, config in (first, second))
    for number in sorted(names.keys() | others.keys()):
        _check_same(f"label {number} (id2label)", (first[0], names.get(number)), (second[0], others.get(number)))


def _properties(config: PretrainedConfig) -> dict[str, Any]:
    """{title: value} that must be equal, of a config and of its parts, as a text's and an image's tower."""
    found = {title: read(config) for title, read in _PROPERTIES.items()}
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PretrainedConfig):
            found |= {f"{title} ({name})": read(part) for title, read in _OF_PARTS.items()}
    return found


def _task_name(config: PretrainedConfig) -> str:
    return find_task(config).name


def _image_size(config: PretrainedConfig) -> tuple[int, int] | None:
    return size_pair(config.image_size) if has_patches(config) else None


def _patches(config: PretrainedConfig) -> int | None:
    if not has_patches(config):
        return None
    (height, width), (patch_height, patch_width) = size_pair(config.image_size), size_pair(config.patch_size)
    return (height // patch_height) * (width // patch_width)


def _padding(config: PretrainedConfig) -> int | None:
    """Where the last token that is no padding gives the answer, all must pad alike."""
    return pad_id(text_config(config)) if find_task(config).per_text else None


def _blank(config: PretrainedConfig) -> int | None:
    """The symbol that frames of sounds without a letter have."""
    task = find_task(config)
    return task.blank if task.name == "ctc" else None


def _strides(config: PretrainedConfig) -> tuple[int, ...] | None:
    """Steps between the patches of every stage, which the shapes of weights do not show."""
    strides = getattr(config, "strides", None)
    return tuple(strides) if isinstance(strides, (list, tuple)) else None


def _frames(config: PretrainedConfig) -> int | None:
    """Frames of a spectrogram."""
    names = ("max_length", "max_source_positions")
    return next((getattr(config, n) for n in names if hasattr(config, n)), None) if is_audio_config(config) else None


def _attribute(*names: str) -> Callable[[PretrainedConfig], Any]:
    return lambda config: next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(str(item) for item in value)
    return "none" if value is None else str(value)


#: {title: value of a config} that must be equal, also of its parts.
_OF_PARTS: dict[str, Callable[[PretrainedConfig], Any]] = {
    "model type": _attribute("model_type"),
    "image size": _image_size,
    "number of channels": _attribute("num_channels"),
    "number of patches": _patches,
    "strides": _strides,
    "number of mel bins": _attribute("num_mel_bins"),
    "number of frames": _frames,
    "vocabulary size": _attribute("vocab_size"),
    "number of positions": _attribute("max_position_embeddings", "n_positions"),
    "number of experts": _attribute("num_local_experts", "num_experts", "n_routed_experts"),
    "activation": _attribute("hidden_act", "activation_function", "hidden_activation"),
}
#: Those of whole models; type and task come first.
_PROPERTIES: dict[str, Callable[[PretrainedConfig], Any]] = {
    "model type": _attribute("model_type"),
    "task": _task_name,
    "token of padding (pad_token_id)": _padding,
    "symbol of no letter (pad_token_id)": _blank,
    "number of places for objects": _attribute("num_queries", "num_detection_tokens"),
    **_OF_PARTS,
}

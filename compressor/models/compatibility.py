"""Which models can be one ensemble: they must read the same inputs and answer in the same terms."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

from compressor.errors import UserError
from compressor.models.inputs import is_image_config, task_of
from compressor.models.tasks import check_answers

if TYPE_CHECKING:
    from compressor.models.load import Teacher

Fact = Callable[[Any], Any]

# Which settings of a preprocessor have an effect, by the switch that turns them on.
_PREPROCESSING = {
    "do_resize": ("size", "resample"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}


def check_compatible_configs(named: Sequence[tuple[str, PretrainedConfig]]) -> None:
    """Refuse configs that cannot be one ensemble. Widths and depths may differ.

    Args:
        named: names as the user wrote them, and their configs.

    Raises:
        UnsupportedError: one of them gives numbers, or says yes or no to every label.
        UserError: model type, task, classes, labels, image geometry, vocabulary or activation differ; it says
            which one, and what each of the two models has.
    """
    (first, reference), *others = named
    for name, config in others:
        for what, fact in _FACTS.items():
            _same(what, (first, fact(reference)), (name, fact(config)))
        _same_labels((first, reference), (name, config))
    for name, config in named:
        check_answers(config, name)


def check_compatible(teachers: Sequence[Teacher]) -> None:
    """Refuse teachers that cannot be one ensemble: `check_compatible_configs`, and what only loaded models show.

    Raises:
        UserError: as for the configs; or preprocessors, tokenizers or the parameters of a layer differ.
    """
    check_compatible_configs([(teacher.name, teacher.config) for teacher in teachers])
    first, *others = teachers
    for teacher in others:
        for owner, other in ((first, teacher), (teacher, first)):
            extra = sorted(_parameters(owner) - _parameters(other))
            if extra:
                raise UserError(f"the teachers' parameters differ: {owner.name} has {extra[0]}, {other.name} has not")
            if owner.processor is not None and other.processor is None:
                raise UserError(
                    f"{other.name} has no preprocessor and {owner.name} has one: copy it over if it fits both"
                )
        if first.processor is not None:
            _same_processor(first, teacher)


def _parameters(teacher: Teacher) -> set[str]:
    """Names of parameters and buffers, whatever layer they are of."""
    return {re.sub(r"\.\d+\.", ".*.", name) for name in teacher.model.state_dict()}


def _same_processor(first: Teacher, second: Teacher) -> None:
    mine: Any = first.processor
    other: Any = second.processor
    if is_image_config(first.config):
        ours, theirs = _image_settings(mine), _image_settings(other)
        for key in sorted(ours.keys() | theirs.keys()):
            _same(f"preprocessor's {key}", (first.name, ours.get(key)), (second.name, theirs.get(key)))
        return
    ours, theirs = mine.get_vocab(), other.get_vocab()
    if ours != theirs:
        token = min(ours.items() ^ theirs.items())[0]
        raise UserError(
            f"the teachers' tokenizers differ: token {token!r} is {ours.get(token)} in {first.name} and "
            f"{theirs.get(token)} in {second.name}"
        )
    if _tokenizer_rules(mine) != _tokenizer_rules(other):
        raise UserError(f"the teachers' tokenizers differ: {first.name} and {second.name} split text differently")


def _image_settings(processor: Any) -> dict[str, Any]:
    """The settings of an image processor that have an effect, as plain JSON values."""
    values = json.loads(json.dumps(processor.to_dict(), default=str))
    silent = {key for switch, keys in _PREPROCESSING.items() if not values.get(switch) for key in keys}
    known = {*_PREPROCESSING, *(key for keys in _PREPROCESSING.values() for key in keys)}
    return {key: values[key] for key in known - silent if values.get(key) not in (None, False)}


def _tokenizer_rules(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__
    rules = json.loads(backend.to_str())
    # Set by the last call, not by the files.
    return {key: value for key, value in rules.items() if key not in ("padding", "truncation")}


def _same(what: str, first: tuple[str, Any], second: tuple[str, Any]) -> None:
    if first[1] != second[1]:
        raise UserError(
            f"the teachers differ in {what}: {first[0]} has {_say(first[1])} and {second[0]} has {_say(second[1])}"
        )


def _same_labels(first: tuple[str, PretrainedConfig], second: tuple[str, PretrainedConfig]) -> None:
    if not task_of(first[1]).endswith("classification"):
        return
    labels: list[dict[Any, str]] = [dict(config.id2label or {}) for _, config in (first, second)]
    for index in sorted(labels[0].keys() | labels[1].keys()):
        ours, theirs = (names.get(index) for names in labels)
        if ours != theirs:
            raise UserError(
                f"the teachers differ in the order of labels (id2label): class {index} is {ours!r} in {first[0]} and "
                f"{theirs!r} in {second[0]}"
            )


def _classes(config: PretrainedConfig) -> int | None:
    return config.num_labels if task_of(config).endswith("classification") else None


def _image_size(config: PretrainedConfig) -> tuple[int, int] | None:
    return _pair(config.image_size) if is_image_config(config) else None


def _patches(config: PretrainedConfig) -> int | None:
    if not is_image_config(config):
        return None
    (height, width), (patch_height, patch_width) = _pair(config.image_size), _pair(config.patch_size)
    return (height // patch_height) * (width // patch_width)


def _pair(size: int | Iterable[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return height, width


def _attribute(*names: str) -> Fact:
    return lambda config: next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _say(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(str(item) for item in value)
    return "none" if value is None else str(value)


_FACTS: dict[str, Fact] = {
    "model type": _attribute("model_type"),
    "task": task_of,
    "number of classes": _classes,
    "image size": _image_size,
    "number of channels": _attribute("num_channels"),
    "number of patches": _patches,
    "vocabulary size": _attribute("vocab_size"),
    "number of positions": _attribute("max_position_embeddings", "n_positions"),
    "number of experts": _attribute("num_local_experts", "num_experts", "n_routed_experts"),
    "activation": _attribute("hidden_act", "activation_function", "hidden_activation"),
}

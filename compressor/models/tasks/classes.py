"""Classes of several classifiers, matched by name."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig

from compressor.errors import UnsupportedError, UserError
from compressor.models.tasks.table import find_task, is_classifier
from compressor.recipe.fusion import ClassesName

#: The name that transformers gives to a class without one.
_GENERIC = re.compile(r"LABEL_[0-9]+")
#: Most classes that a message lists.
_LISTED = 4

NamedConfig = tuple[str, PretrainedConfig]


@dataclass(frozen=True)
class CommonClasses:
    """Classes that several models get.

    Attributes:
        names: in order.
        numbers: per model, its own number of each of them; None where it lacks the class.
    """

    names: tuple[str, ...]
    numbers: tuple[tuple[int | None, ...], ...]

    def of(self, config: PretrainedConfig) -> PretrainedConfig:
        """A copy of a config with these classes."""
        copied = copy.deepcopy(config)
        copied.id2label = dict(enumerate(self.names))
        copied.label2id = {name: number for number, name in enumerate(self.names)}
        return copied


def match_classes(
    named: Sequence[NamedConfig], choice: ClassesName = "same", *, student: NamedConfig | None = None
) -> CommonClasses | None:
    """Match the classes of models of one task by name; case counts only where it tells names of one model apart.

    Args:
        named: (user's name, config).
        choice: which classes the models get; "same": in any order.
        student: a model that keeps its classes; then `choice` only allows that the others' are not the same.

    Returns:
        None if there is nothing to do: no classifiers, or the same classes in the same order.

    Raises:
        UserError: unlike classes that `choice` does not allow, too few in common, or no names to match by.
        UnsupportedError: taggers of unlike classes.
    """
    models = [*named, *([student] if student is not None else [])]
    if not is_classifier(models[0][1]):
        if choice != "same":
            raise UserError(
                f"{models[0][0]} has no classes, and --classes ({choice}) is about classifiers: leave it out"
            )
        return None
    names = [_names(config) for _, config in models]
    task = find_task(models[0][1])
    # One value needs no name.
    if all(own == names[0] for own in names) or (task.answers == "values" and all(len(own) == 1 for own in names)):
        return None
    _check_names(models, names)
    keys = _keys(names)
    titles = {key: name for own, own_keys in zip(reversed(names), reversed(keys), strict=True)
              for name, key in zip(own, own_keys, strict=True)}  # fmt: skip
    if any(set(own) != set(keys[0]) for own in keys):
        _check_allowed(models, names, keys, choice)
    common = list(keys[-1] if student is not None else keys[0])
    if student is None and choice == "union":
        common = list(dict.fromkeys(key for own in keys for key in own))
    elif student is None and choice == "intersection":
        common = [key for key in common if all(key in own for own in keys)]
    _check_shared(models, keys, common)
    numbers = tuple(tuple(own.index(key) if key in own else None for key in common) for own in keys)
    return CommonClasses(tuple(titles[key] for key in common), numbers)


def teachers_choice(choice: ClassesName, student: PretrainedConfig | None) -> ClassesName:
    """How teachers' classes may differ from each other: with a given student, whose classes count, in any way."""
    return choice if student is None or not is_classifier(student) else "union"


def _names(config: PretrainedConfig) -> list[str]:
    return [str(name) for _, name in sorted((config.id2label or {}).items(), key=lambda item: int(item[0]))]


def _keys(names: Sequence[Sequence[str]]) -> list[list[str]]:
    folded = [[name.strip().casefold() for name in own] for own in names]
    return folded if all(len(set(own)) == len(own) for own in folded) else [list(own) for own in names]


def _check_names(models: Sequence[NamedConfig], names: Sequence[Sequence[str]]) -> None:
    """Refuse classes without names of their own: nobody knows which of them are the same."""
    # Digits are names where some model's are not simply its own numbers.
    numbered = all(name == str(number) for own in names for number, name in enumerate(own))
    for index, ((model, _), own) in enumerate(zip(models, names, strict=True)):
        if numbered or any(_GENERIC.fullmatch(name) for name in own):
            other = models[0 if index else 1][0]
            raise UserError(
                f"the teachers differ in classes, and those of {model} have no names to match them with those of "
                f"{other} by ({_listed(own)}): write them into id2label of its config.json"
            )
        twice = next((name for name in own if own.count(name) > 1), None)
        if twice is not None:
            raise UserError(
                f"the teachers differ in classes, and {model} has several of the name {twice!r}, which cannot be "
                "matched by name: tell them apart in id2label of its config.json"
            )


def _check_allowed(
    models: Sequence[NamedConfig], names: Sequence[Sequence[str]], keys: Sequence[Sequence[str]], choice: ClassesName
) -> None:
    task = find_task(models[0][1])
    if choice != "same" and not task.one_class:
        raise UnsupportedError(f"teachers of unlike classes are not supported for {task.name} yet")
    if choice != "same":
        return
    other = next(index for index, own in enumerate(keys) if set(own) != set(keys[0]))
    parts = []
    for mine, theirs in ((0, other), (other, 0)):
        alone = [name for name, key in zip(names[mine], keys[mine], strict=True) if key not in keys[theirs]]
        if alone:
            parts.append(f"{models[mine][0]} has {_listed(alone)}, which {models[theirs][0]} lacks")
    remedy = "name the classes to be answered with --classes union, first or intersection (fusion.classes in a recipe)"
    if not task.one_class:
        remedy = f"models of {task.name} must answer the same"
    raise UserError(f"the teachers differ in classes: {'; '.join(parts)}: {remedy}")


def _check_shared(models: Sequence[NamedConfig], keys: Sequence[Sequence[str]], common: Sequence[str]) -> None:
    if len(common) < 2:
        raise UserError(
            f"the teachers have {len(common) or 'no'} {'class' if len(common) == 1 else 'classes'} in common, and a "
            "classifier chooses one of two or more: give --classes union"
        )
    for (name, _), own in zip(models, keys, strict=True):
        if not set(own) & set(common):
            raise UserError(f"{name} has none of the classes to be answered ({_listed(common)}): leave it out")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")

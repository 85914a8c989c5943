"""Heads of classifiers with other classes, or in another order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compressor.errors import UnsupportedError
from compressor.models.meta import meta_model
from compressor.models.tasks.classes import CommonClasses, match_classes
from compressor.models.tasks.table import find_task
from compressor.models.teacher import ModelSpec, Teacher
from compressor.recipe.fusion import ClassesName


def with_common_classes(
    teachers: Sequence[Teacher], choice: ClassesName = "same", student: Teacher | None = None
) -> list[Teacher]:
    """Teachers whose heads answer the same classes in one order; their models are copies that share all other weights.

    Args:
        student: a model that keeps its classes.

    Raises:
        UserError, UnsupportedError: as `match_classes` and `take_classes`.
    """
    named = [(teacher.name, teacher.config) for teacher in teachers]
    common = match_classes(named, choice, student=None if student is None else (student.name, student.config))
    if common is None:
        return list(teachers)
    pairs = zip(teachers, common.numbers[: len(teachers)], strict=True)
    return [_with_classes(teacher, common, numbers) for teacher, numbers in pairs]


def _with_classes(teacher: Teacher, common: CommonClasses, numbers: Sequence[int | None]) -> Teacher:
    own = len(teacher.spec.labels)
    if list(numbers) == list(range(own)):
        return teacher
    missing = tuple(index for index, number in enumerate(numbers) if number is None)
    dropped = own - (len(numbers) - len(missing))
    parts = [f"lacks {', '.join(common.names[index] for index in missing)}"] if missing else []
    parts += [f"gives up {dropped} of its {own} classes"] if dropped else []
    line = f"{teacher.name} {' and '.join(parts) or 'has the classes in another order'}: matched by name (id2label)"
    model = take_classes(teacher.model, common, numbers)
    if missing:
        linear_head(model)
    notes = (*teacher.notes, line)
    return replace(teacher, model=model, spec=ModelSpec.of(model.config), notes=notes, lacking=missing)


@torch.no_grad()
def take_classes(model: PreTrainedModel, common: CommonClasses, numbers: Sequence[int | None]) -> PreTrainedModel:
    """A copy of a classifier that answers other classes; it shares all weights but the head's.

    A class that the model lacks gets the mean of its logits, which is never its answer.

    Args:
        numbers: the model's own number of each class, None where it lacks it.

    Raises:
        UnsupportedError: the head is not one row a class.
    """
    axes = class_axes(model.config)
    shared: dict[int, Tensor] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for name, axis in axes.items():
        path, _, attribute = name.rpartition(".")
        module = copied.get_submodule(path)
        rows = getattr(module, attribute).movedim(axis, 0)
        taken = torch.stack([rows.mean(0) if number is None else rows[number] for number in numbers])
        # A detector has a row for no object, too.
        taken = torch.cat([taken, rows[len(model.config.id2label or {}) :]])
        parameter = nn.Parameter(taken.movedim(0, axis).contiguous(), requires_grad=rows.requires_grad)
        setattr(module, attribute, parameter)
        if isinstance(module, nn.Linear):
            module.out_features = len(taken)
    copied.config.id2label = dict(enumerate(common.names))
    copied.config.label2id = {name: number for number, name in enumerate(common.names)}
    if hasattr(copied, "num_labels"):
        # Not a tensor or a module, as the type of a module's attributes has it.
        vars(copied)["num_labels"] = len(numbers)
    return copied


def class_axes(config: PretrainedConfig) -> dict[str, int]:
    """{parameter: its axis of classes, and of no object in detectors}, by what one more class changes.

    Raises:
        UnsupportedError: an axis does not grow by one.
    """
    rows = len(config.id2label or {}) + (find_task(config).answers == "boxes")
    more = copy.deepcopy(config)
    more.num_labels = len(config.id2label or {}) + 1
    sizes, larger = (
        {name: value.shape for name, value in meta_model(each).named_parameters()} for each in (config, more)
    )
    axes: dict[str, int] = {}
    for name, size in sizes.items():
        grown = [axis for axis, pair in enumerate(zip(size, larger[name], strict=True)) if pair[0] != pair[1]]
        if not grown:
            continue
        if len(grown) > 1 or (size[grown[0]], larger[name][grown[0]]) != (rows, rows + 1):
            raise UnsupportedError(f"the head of {config.model_type} models is not one row a class: {name}")
        axes[name] = grown[0]
    return axes


def linear_head(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The only module that knows the classes, a linear one.

    Raises:
        UnsupportedError: there are several, or it is another kind.
    """
    paths = {name.rpartition(".")[0] for name in class_axes(model.config)}
    modules = [(path, model.get_submodule(path)) for path in sorted(paths)]
    if len(modules) == 1 and isinstance(modules[0][1], nn.Linear):
        return modules[0][0], modules[0][1]
    raise UnsupportedError(
        f"classes that a teacher lacks need one linear head, and {type(model).__name__} has "
        f"{', '.join(f'{path} ({type(module).__name__})' for path, module in modules)}"
    )

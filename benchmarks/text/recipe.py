"""The recipe of one text teacher: everything that decides its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Task = Literal["sst2", "shakespeare", "seq2seq"]


class TeacherRecipe(BaseModel):
    """How one teacher is made: a task, a config to be trained from scratch, and the training.

    Attributes:
        task: what is learned, and with it data, tokenizer, head and score.
        seed: of the first weights, of dropout and of the order of the samples.
        config: `model_type` and whatever that type's config takes; what follows from tokenizer and task (vocabulary,
            special tokens, length, classes) is filled in.
        steps: optimiser steps of AdamW, the learning rate rising over the first tenth and falling as a cosine.
        evaluate_every: steps between looks at the validation data; the weights of the best look are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    seed: int
    config: dict[str, Any]
    steps: int = Field(gt=0)
    evaluate_every: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


def read_recipe(file: Path) -> TeacherRecipe:
    """Read one YAML file; pydantic's error names what is wrong with it."""
    return TeacherRecipe.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def write_recipe(recipe: TeacherRecipe, file: Path) -> None:
    """Write every field, those left at their default too."""
    file.write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False), encoding="utf-8")

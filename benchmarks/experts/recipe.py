"""How an expert is made: a teacher's recipe, what it starts from and which part of the data it sees."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator

from benchmarks.common.teachers import TeacherRecipe
from benchmarks.vision.pictures import Images

#: Of the images of other classes that an expert sees: the same ones whatever the seed of its training.
OTHERS_SEED = 0


class ExpertRecipe(TeacherRecipe):
    """A teacher that knows a part of the task.

    Attributes:
        start: folder name of the model that is fine-tuned; without it `config` is trained from scratch.
        classes: numbers of the classes of which all images are seen; all if left out.
        others: share of the images of other classes that are seen too.
        shard: which of how many equal parts of the images; the whole if left out.
    """

    config: dict[str, Any] = Field(default={})
    start: str | None = None
    classes: tuple[int, ...] = ()
    others: float = Field(default=0.0, ge=0, le=1)
    shard: tuple[int, int] = (0, 1)

    @model_validator(mode="after")
    def _one_beginning(self) -> ExpertRecipe:
        if bool(self.config) == bool(self.start):
            raise ValueError("an expert has a config or a start, one of both")
        index, count = self.shard
        if not 0 <= index < count:
            raise ValueError("shard is [which, of how many], counted from 0")
        return self

    def seen(self, images: Images) -> Images:
        """The part of training images that the expert learns from."""
        index, count = self.shard
        part = images.select(torch.arange(index, len(images), count))
        if not self.classes:
            return part
        mine = torch.isin(part.labels, torch.tensor(self.classes))
        drawn = torch.rand(len(part), generator=torch.Generator().manual_seed(OTHERS_SEED)) < self.others
        return part.select((mine | drawn).nonzero().flatten())

"""What a text teacher's recipe says besides."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from benchmarks.common.teachers import TeacherRecipe

Task = Literal["sst2", "shakespeare", "seq2seq", "domain"]


class TextRecipe(TeacherRecipe):
    """The recipe of a text teacher.

    Attributes:
        task: what is learned, and with it data, tokenizer, head and score.
        domain: name of the text, where the task is "domain".
    """

    task: Task
    domain: str = ""

    @model_validator(mode="after")
    def _domain_named(self) -> TextRecipe:
        if (self.task == "domain") != bool(self.domain):
            raise ValueError('a recipe names its domain where its task is "domain", and nowhere else')
        return self

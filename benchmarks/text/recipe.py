"""What a text teacher's recipe says besides."""

from __future__ import annotations

from typing import Literal

from benchmarks.common.teachers import TeacherRecipe

Task = Literal["sst2", "shakespeare", "seq2seq"]


class TextRecipe(TeacherRecipe):
    """The recipe of a text teacher.

    Attributes:
        task: what is learned, and with it data, tokenizer, head and score.
    """

    task: Task

"""Flags that set fields of the recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import typer
from rich.markup import escape

from compressor.cli.completion import COMPLETIONS, complete_words
from compressor.cli.parsing import switched_off
from compressor.recipe import Recipe

#: Headings of flags in the help.
JOB, DATA, FUSION, FINETUNE, LEAVE_OUT, GENERAL, PAPER = (
    "The job",
    "Data",
    "Fusion",
    "Finetune",
    "Leave out",
    "General",
    "Alignment to an anchor (the paper)",
)


@dataclass(frozen=True)
class Flag:
    """An optional flag that sets a field of the recipe.

    Attributes:
        name: such as "--width".
        path: such as "finetune.steps".
        short: one letter, or "".
        metavar: None for the type.
        help: "" for the field's own.
        parse: converts the value.
    """

    name: str
    path: str
    panel: str
    type: Any = str
    short: str = ""
    metavar: str | None = None
    help: str = ""
    parse: Callable[[Any], Any] | None = None

    @property
    def field(self) -> Any:
        """Entry in the recipe's schema."""
        model: Any = Recipe
        *sections, last = self.path.split(".")
        for section in sections:
            model = model.model_fields[section].annotation
        return model.model_fields[last]

    @property
    def words(self) -> list[str]:
        """Words that the field takes; none for free text."""

        def words_of(kind: Any) -> list[str]:
            if get_origin(kind) is Literal:
                return [str(word) for word in get_args(kind)]
            return [word for part in get_args(kind) for word in words_of(part)]

        return words_of(self.field.annotation)

    def value(self, given: Any) -> Any:
        """The field's value for one on the command line."""
        return given if self.parse is None else self.parse(given)

    def option(self) -> Any:
        """The option for typer."""
        names, words = [self.name, *([self.short] if self.short else [])], self.words
        if self.parse is switched_off:
            # The opposite is for what a preset turned off.
            names = [f"{self.name}/--{self.name.removeprefix('--no-')}"]
        return typer.Option(
            *names, help=self._help_text(), show_default=False, rich_help_panel=self.panel, metavar=self.metavar,
            autocompletion=COMPLETIONS.get(self.name) or (complete_words(words) if words else None),
        )  # fmt: skip

    def _help_text(self) -> str:
        if self.parse is switched_off:
            return self.help
        field, words = self.field, self.words
        # Escaped, as below: brackets are markup in a help text.
        text = escape(self.help or field.description or "")
        if not all(re.search(rf"\b{re.escape(word)}\b", text) for word in words):
            text += f" One of {', '.join(words)}."
        default = None if field.is_required() else field.default
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        if default not in (None, {}) and not isinstance(default, bool):
            text += f" [dim]\\[default: {default}][/dim]"
        return text

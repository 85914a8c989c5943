"""Help in two lengths: the flags of a first job, and all of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand

from compressor.cli.options import FIRST_FLAGS, FLAGS

#: Commands with at most so many flags show all at once.
MOST_FLAGS = 20
_ALL = "compressor.help-all"
_HELP = "Show every flag, and exit."


class JobCommand(TyperCommand):
    """A command whose `--help` shows the flags of a first job, if it has many, and `--help-all` all."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters, option = super().get_params(ctx), self.get_help_option(ctx)
        return [*parameters, _help_all(option)] if self.is_long and option else parameters

    @property
    def is_long(self) -> bool:
        """Whether the command has too many flags for one screen."""
        return len(self.params) > MOST_FLAGS

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._only_first(enabled=self.is_long and not ctx.meta.get(_ALL)):
            super().format_help(ctx, formatter)

    @contextmanager
    def _only_first(self, enabled: bool) -> Iterator[None]:
        """Hide the recipe's other flags, and those of rare use, for one block."""
        hidden: list[Any] = [parameter for parameter in self.params if enabled and _is_rare(parameter)]
        before = [parameter.hidden for parameter in hidden]
        for parameter in hidden:
            parameter.hidden = True
        try:
            yield
        finally:
            for parameter, value in zip(hidden, before, strict=True):
                parameter.hidden = value


def _is_rare(parameter: Any) -> bool:
    if parameter.param_type_name != "option":
        return False
    names = [f"--{name.removeprefix('--no-')}" if name.startswith("--no-") else name for name in parameter.opts]
    known = {*names, *parameter.opts} & {*FLAGS, *_RARE}
    return bool(known) and not {*parameter.opts, *(f"--no-{name[2:]}" for name in parameter.opts)} & set(FIRST_FLAGS)


_RARE = ("--push-to-hub", "--with-paths", "--preset", "--debug")


def _help_all(help_option: Any) -> Any:
    """The option `--help-all`, made of `--help`."""
    option = copy.copy(help_option)
    option.name, option.opts, option.callback, option.help = "help_all", ["--help-all"], _print_all, _HELP
    return option


def _print_all(ctx: Any, parameter: Any, asked: bool) -> None:
    if asked:
        ctx.meta[_ALL] = True
        print(ctx.get_help())
        raise typer.Exit

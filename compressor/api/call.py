"""Calls of the Python face: wrong ones are answered with a `UserError`, presets become keywords."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from compressor.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def answered(function: Callable[P, R]) -> Callable[P, R]:
    """Answer unknown, missing and surplus arguments with a `UserError`; editors still show the signature."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _check_call(function.__name__, signature, args, kwargs)
        bound = signature.bind(*args, **kwargs)
        if bound.arguments.get("preset") is not None:
            bound.arguments.update(_preset_keywords(signature, bound.arguments))
        return function(*bound.args, **bound.kwargs)

    return call


def _check_call(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise a `UserError` for arguments that do not fit the signature."""
    parameters = signature.parameters
    positional = [key for key, parameter in parameters.items() if parameter.kind in _POSITIONAL]
    for key in kwargs:
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"it takes {', '.join(parameters)}"
            raise UserError(f"{name}: unknown keyword '{key}': {remedy}")
    if len(args) > len(positional):
        raise UserError(
            f"{name}: {len(args)} values without a name, and it takes {', '.join(positional)}: put several models into "
            "one list, and give the rest as name=value"
        )
    given = {*positional[: len(args)], *kwargs}
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise UserError(f"{name}: {key} is missing: {name}({', '.join(_required(signature))}, …)")
    for key in positional[: len(args)]:
        if key in kwargs:
            raise UserError(f"{name}: {key} is given twice, by its place and by its name: leave one out")


def _required(signature: inspect.Signature) -> list[str]:
    """Arguments without a default, as they are typed."""
    return [
        key if parameter.kind in _POSITIONAL else f"{key}=…"
        for key, parameter in signature.parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]


def _preset_keywords(signature: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's values as keywords, beneath those that the caller gave."""
    from compressor.presets import preset

    values = preset(str(given["preset"]))
    flat = {**values, **values.get("calibration", {}), **values.get("fusion", {})}
    if given.get("anchor") is not None:
        # The anchor gives the student its shape.
        flat.pop("width", None)
    merged: dict[str, Any] = {}
    for key in flat.keys() & signature.parameters.keys():
        if given.get(key) is None:
            merged[key] = flat[key]
        elif isinstance(flat[key], Mapping) and isinstance(given[key], Mapping):
            merged[key] = {**flat[key], **given[key]}
    return merged

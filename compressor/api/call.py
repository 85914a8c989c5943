"""Calls of the Python face: wrong ones are answered with a `UserError`, presets become keywords."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from compressor.errors import UserError
from compressor.utils.consent import code_trusted

if TYPE_CHECKING:
    from inspect import Signature

P = ParamSpec("P")
R = TypeVar("R")


def answered(function: Callable[P, R]) -> Callable[P, R]:
    """Answer unknown, missing and surplus arguments with a `UserError`; editors still show the signature."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Imported here, as everything that `import compressor` can do without.
        import inspect

        signature = inspect.signature(function)
        _check_call(function.__name__, signature, args, kwargs)
        bound = signature.bind(*args, **kwargs)
        if bound.arguments.get("preset") is not None:
            bound.arguments.update(_preset_keywords(signature, bound.arguments))
        with code_trusted(bool(bound.arguments.get("trust_remote_code"))):
            return function(*bound.args, **bound.kwargs)

    return call


def _check_call(name: str, signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise a `UserError` for arguments that do not fit the signature."""
    parameters = signature.parameters
    places = [key for key, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    for key in kwargs:
        if key not in parameters:
            raise UserError(f"{name}: unknown keyword '{key}': {_known(key, signature)}")
    if len(args) > len(places):
        raise UserError(
            f"{name}: {len(args)} values without a name, and it takes {', '.join(places)}: put several models into "
            "one list, and give the rest as name=value"
        )
    given = {*places[: len(args)], *kwargs}
    required = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    for key in required:
        if key not in given:
            typed = [name if name in places else f"{name}=…" for name in required]
            raise UserError(f"{name}: {key} is missing: {name}({', '.join(typed)}, …)")
    for key in places[: len(args)]:
        if key in kwargs:
            raise UserError(f"{name}: {key} is given twice, by its place and by its name: leave one out")


def _known(key: str, signature: Signature) -> str:
    """The keyword that a wrong one may have meant, or all."""
    import difflib

    close = difflib.get_close_matches(key, signature.parameters, n=1)
    return f"did you mean {close[0]}?" if close else f"it takes {', '.join(signature.parameters)}"


def _preset_keywords(signature: Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's values as keywords, beneath those that the caller gave."""
    from compressor.presets import preset

    values = preset(str(given["preset"]))
    # `calibration` is a section of a preset, and a keyword for data.
    sections = [values.pop(name, {}) for name in ("calibration", "fusion")]
    flat = {**values, **sections[0], **sections[1]}
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

"""Errors and warnings for people.

Every mistake that a user can make is raised as `UserError`.  The command line prints its line and exits with code 2.
Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from compressor.wording import bound_line


class UserError(Exception):
    """Bad input, in one line: the fault, its place, and its remedy.  Overlong words are cut in the middle."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*(bound_line(part) if isinstance(part, str) else part for part in parts))


class UnsupportedError(UserError):
    """A request that this version does not support; the message names it and an alternative."""


class CertificateError(UserError):
    """The anatomy of a model could not be certified; the message names the space or parameter at fault."""


class CouplingError(UserError):
    """A transport solver did not converge, or its coupling misses its marginals."""


class ParityError(UserError):
    """An exported file and its model give different outputs."""


class CouplingWarning(UserWarning):
    """A coupling is usable but inexact; the message names the space and the marginal error."""

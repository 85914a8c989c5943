"""Errors and warnings for people.

Mistakes of users are a `UserError`: one line and exit code 2.  Other exceptions are bugs and keep their traceback.
"""

from __future__ import annotations

from compressor.wording import bound_line


class UserError(Exception):
    """Bad input, in one line: fault, place and remedy.  Overlong words are cut in the middle."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*(bound_line(part) if isinstance(part, str) else part for part in parts))


class UnsupportedError(UserError):
    """An unsupported request; names an alternative."""


class CertificateError(UserError):
    """A model's anatomy could not be certified; names the space or parameter."""


class LaunchError(UserError):
    """The launcher's variables are wrong; every process says so, since its rank is in doubt."""


class CouplingError(UserError):
    """A transport solver did not converge, or its coupling misses its marginals."""


class ParityError(UserError):
    """An exported file and its model differ."""


class FusionWarning(UserWarning):
    """A fused student is usable, but not whole or not exact."""


class CouplingWarning(FusionWarning):
    """A coupling is usable but inexact; names the space and the marginal error."""


class CheckpointWarning(UserWarning):
    """A checkpoint is not whole, so a training goes on from an older one."""

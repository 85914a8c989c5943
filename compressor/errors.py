"""The errors and warnings that are meant for people.

Everything that a user can cause (a wrong name, an unreadable file, an impossible width) is raised as
`UserError` with one line that says what is wrong, where, and what to do.  The command line prints that line
and exits with code 2; library users catch the class.  Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

from compressor.wording import bound_line


class UserError(Exception):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    Whatever the message quotes, it stays short enough to be read: overlong words are cut in the middle.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(bound_line(part) if isinstance(part, str) else part for part in parts))


class UnsupportedError(UserError):
    """Something that this version does not do; the message names it and what works instead."""


class CertificateError(UserError):
    """The anatomy of a model could not be certified; the message names the space or parameter that broke it."""


class CouplingError(UserError):
    """A transport solver failed: it did not converge or its coupling misses its marginals."""


class ParityError(UserError):
    """An exported file disagrees with the model it was made from."""


class CouplingWarning(UserWarning):
    """A coupling is usable but not exact; the message names the space and the marginal error."""

"""Variables by which a launcher (torchrun, accelerate) tells processes of each other."""

from __future__ import annotations

import os
import socket

from compressor.errors import LaunchError
from compressor.wording import quote

#: {variable of a whole number: (least, largest)}.
_NUMBERS = {
    "WORLD_SIZE": (1, 1 << 20),
    "LOCAL_WORLD_SIZE": (1, 1 << 20),
    "RANK": (0, 1 << 20),
    # Old launchers say -1 for "not launched".
    "LOCAL_RANK": (-1, 1 << 20),
    "MASTER_PORT": (1, (1 << 16) - 1),
}
#: Process counts of MPI launchers, which accelerate takes for its own.
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_REMEDY = "start with torchrun or accelerate launch, or unset it"


def launched_number(name: str, default: int) -> int:
    """A variable's whole number; the default if it is none."""
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        return default


def check_numbers() -> None:
    """Check the launcher's numbers.

    Raises:
        LaunchError: no whole number, or out of range.
    """
    for name, (least, most) in _NUMBERS.items():
        value = os.environ.get(name)
        if value is not None and not least <= launched_number(name, least - 1) <= most:
            kind = f"a whole number from {least}" + (f" to {most}" if name == "MASTER_PORT" else "")
            raise LaunchError(f"the environment variable {name} is {quote(value)} and should be {kind}: {_REMEDY}")
    size = launched_number("WORLD_SIZE", 1)
    for name in ("RANK", "LOCAL_RANK"):
        if launched_number(name, 0) >= size:
            raise LaunchError(
                f"the environment variable {name} is {os.environ[name]} of {size} "
                f"process{'es' if size > 1 else ''} (WORLD_SIZE): {_REMEDY}"
            )


def is_launched() -> bool:
    """Whether accelerate would connect this process to others, or to itself alone."""
    return launched_number("WORLD_SIZE", 1) > 1 or launched_number("LOCAL_RANK", -1) >= 0


def check_connection(device: str) -> None:
    """Check that all variables to connect processes are there, before anything waits for others.

    Raises:
        LaunchError: names the missing or unusable variable.
    """
    check_numbers()
    if not is_launched():
        for name in _MPI_SIZES:
            if (value := os.environ.get(name)) not in (None, "1"):
                raise LaunchError(f"{name} is {quote(value)}, and processes of MPI are not used: {_REMEDY}")
        return
    # GPUs are shared out by LOCAL_RANK.
    needed = ("RANK", *(("LOCAL_RANK",) if device != "cpu" else ()), "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        given = [f"{name} is {os.environ[name]}" for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK") if name in os.environ]
        raise LaunchError(
            f"the environment says that {' and '.join(given)}, but not {' and '.join(missing)}: start with torchrun or "
            "accelerate launch, or unset them all"
        )
    address = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(address, os.environ["MASTER_PORT"])
    except (OSError, UnicodeError) as error:
        raise LaunchError(f"MASTER_ADDR is {quote(address)}, which is no address here ({error}): {_REMEDY}") from None

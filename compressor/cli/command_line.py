"""Start and end of the command."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import typer
import typer.main

from compressor.cli.app import app
from compressor.errors import LaunchError, UserError
from compressor.utils import distributed
from compressor.utils.launch import check_numbers
from compressor.utils.out_of_memory import describe_out_of_memory, is_out_of_memory
from compressor.wording import bound_line

#: Exit codes: bad input, a bug, and an interruption.
BAD_INPUT, BUG, INTERRUPTED = 2, 1, 130
#: Set by a shell that completes a command line.
COMPLETION = "_COMPRESS_COMPLETE"

# The module of typer's usage errors differs between its releases.
_exceptions = importlib.import_module(typer.BadParameter.__module__)


def run_and_exit() -> None:
    """Run the command line of this process, or complete it for a shell."""
    if COMPLETION in os.environ:
        app(prog_name="compress")
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; print each error as one line to stderr.

    Returns:
        Exit code: 0, 2 for bad input, 130 if interrupted, else 1.
    """
    debug = "--debug" in arguments
    _set_environment()
    try:
        check_numbers()
        command = typer.main.get_command(app)
        with command.make_context("compress", list(arguments) or ["--help"]) as context:
            command.invoke(context)
            sys.stdout.flush()
    except (typer.Exit, typer.Abort) as end:
        return getattr(end, "exit_code", BUG)
    except _exceptions.ClickException as error:
        return _print_error(
            f"error: {_one_line(error.format_message())} (compress --help lists what there is)", BAD_INPUT, debug
        )
    except UserError as error:
        # In doubt about its rank, every process speaks.
        once = not isinstance(error, LaunchError)
        return _print_error(f"error: {_one_line(str(error))}", BAD_INPUT, debug, once=once)
    except KeyboardInterrupt as error:
        return _print_error(f"interrupted: {error or 'nothing was written'}", INTERRUPTED, debug, once=True)
    except BrokenPipeError:
        # The reader has stopped: drop the rest of the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BUG
    except Exception as error:
        return _print_error(*_unexpected(error, debug), debug)
    return 0


def _set_environment() -> None:
    """Configure libraries before import; the user's variables stay."""
    for name, value in {
        # Threads of torch spin while they wait. Long spinning slows a busy machine down by an order of magnitude;
        # none costs an idle one a third. This is a few microseconds.
        "GOMP_SPINCOUNT": "3000",
        # Libraries print nothing themselves.
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        # transformers would fetch programs from the Hub if the package `kernels` is installed.
        "USE_HUB_KERNELS": "0",
    }.items():
        os.environ.setdefault(name, value)


def _print_error(line: str, code: int, debug: bool, *, once: bool = False) -> int:
    """Print a line, `once` in a distributed run."""
    if debug:
        traceback.print_exc()
    if not once or distributed.is_main_process():
        print(line, file=sys.stderr)
    return code


def _unexpected(error: Exception, debug: bool) -> tuple[str, int]:
    """Line and exit code of other exceptions than `UserError`."""
    # First: it imports no library, as imports need memory.
    if is_out_of_memory(error):
        return f"error: {describe_out_of_memory(error)}", BAD_INPUT
    if _is_name_too_long(error):
        return f"error: a name is too long for a file: {_one_line(str(error))}", BAD_INPUT
    from compressor.utils.files import is_disk_full

    if is_disk_full(error):
        return "error: no space left on the device: free some, or choose another place", BAD_INPUT
    line = f"error: {type(error).__name__}: {_one_line(str(error))[:300]}"
    return line if debug else f"{line} (this is a bug: run again with --debug and report what it prints)", BUG


def _is_name_too_long(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def _one_line(text: str) -> str:
    return bound_line(" ".join(text.split()))

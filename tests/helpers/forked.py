"""Processes that fork from this one, which has imported the libraries: those that start anew take seconds for that."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from contextlib import contextmanager

import pytest
from command import STAGE


def keep_one_thread():
    """In a forked process: OpenMP's threads do not survive a fork, and who asks for two would wait for them forever."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_threads = lambda count: None


def fork_command(*arguments, prepare=lambda: None):
    """Run `compress` in a process of its own, after `prepare()` there; the process. What it prints `capfd` sees."""
    from compressor.cli import run_command

    def command():
        # Under a limit Python would keep what it compiles of a library cut off, and every later run would fail.
        sys.dont_write_bytecode = True
        # Ignored where several processes share the tests.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        keep_one_thread()
        prepare()
        sys.exit(run_command([str(argument) for argument in arguments]))

    child = multiprocessing.get_context("fork").Process(target=command)
    child.start()
    return child


def compress_forked(capfd, *arguments, prepare):
    """The exit code, stdout and stderr of such a command."""
    capfd.readouterr()
    child = fork_command(*arguments, prepare=prepare)
    child.join(240)
    captured = capfd.readouterr()
    return child.exitcode, captured.out, STAGE.sub("", captured.err)


class Forked:
    """As much of a `subprocess.Popen` as the benchmark uses, of a process that has run `compressor.bench.worker`."""

    def __init__(self):
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _work(theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = os.fdopen(ours_out, "w"), os.fdopen(ours_in)
        self.code = None

    def kill(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


def _work(read_from, write_to):
    from compressor.bench.worker import worker_main

    try:
        keep_one_thread()
        os.dup2(read_from, 0)
        os.dup2(write_to, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stdin = os.fdopen(0)
        worker_main()
    finally:
        os._exit(0)


@contextmanager
def forked_workers():
    """Within, the benchmark's workers with torch fork; `test_bench` of the command starts them as users do."""
    from compressor.bench import subprocesses

    if not hasattr(os, "fork"):
        yield
        return
    start = subprocesses._start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocesses, "_start", lambda job: start(job) if job.engine == "onnx" else Forked())
        yield

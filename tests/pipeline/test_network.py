"""That nothing leaves the machine unasked: commands on local folders look up no host and connect to none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Runs in every process that is started, workers too: refuses sockets and notes who wanted one.
WATCH = """
import os, sys

ASKS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")

def note(line):
    with open(os.environ["WATCH_LOG"], "a") as log:
        log.write(line + "\\n")

def watch(event, arguments):
    if event in ASKS and not isinstance(arguments[-1], (str, bytes)):
        note(f"network {event} {arguments[1:] if event == 'socket.connect' else arguments}")
        raise OSError("no network in this test")
    if event == "import" and arguments[0] == "onnxruntime":
        note(f"onnxruntime {os.getpid()} {os.environ.get('ORT_DISABLE_TELEMETRY')}")

sys.addaudithook(watch)
"""

#: The same for what libraries do in C.
REFUSE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void note(const char *what, const char *host) {
    FILE *log = fopen(getenv("WATCH_LOG"), "a");
    if (log) { fprintf(log, "network %s %s\n", what, host ? host : ""); fclose(log); }
}
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    note("getaddrinfo", host);
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *host) {
    note("gethostbyname", host);
    return NULL;
}
int connect(int socket, const struct sockaddr *address, socklen_t length) {
    if (address->sa_family == AF_INET || address->sa_family == AF_INET6) {
        note("connect", "");
        errno = ENETUNREACH;
        return -1;
    }
    return syscall(SYS_connect, socket, address, length);
}
"""

#: Several commands in one process, which imports the libraries once.
COMMANDS = """
import json, sys
from compressor.cli import run_command
for command in json.loads(sys.argv[1]):
    code = run_command(command)
    if code:
        sys.exit(f"{command} ended with {code}")
"""


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def watched(tmp_path, home):
    """Environment of a fresh user who is not offline and has set nothing, in which sockets are refused and noted."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "watch"), str(ROOT)]),
        "WATCH_LOG": str(tmp_path / "log"),
    }
    if library := _refusing(tmp_path):
        environment["LD_PRELOAD"] = str(library)
    return environment


def _refusing(folder):
    """A library that refuses sockets to C code; None where none can be made: then Python alone is watched."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        return None
    (folder / "refuse.c").write_text(REFUSE)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "refuse.so"), str(folder / "refuse.c")]
    made = subprocess.run(command, capture_output=True, check=False)
    return folder / "refuse.so" if made.returncode == 0 else None


def run_python(code, *arguments, env):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def save_reviews(path):
    """A table of labelled texts; its path."""
    path.write_text("text,label\n" + "good film,positive\nbad plot,negative\n" * 8)
    return path


@pytest.mark.slow
def test_commands_look_up_no_host(watched, home, vit_a, vit_b, bert, image_folder, tmp_path):
    data, student = ["--data", image_folder], tmp_path / "student"
    quick = ["--samples", 8, "--steps", 2, "--batch-size", 4, "--no-latency", "--no-onnx"]
    commands = [
        ["doctor"],
        ["fuse", vit_a, vit_b, *data, "-o", student, *quick],
        ["export", student, "--formats", "onnx,onnx-int8", *data],
        ["bench", student, "--backends", "torch,onnx", "--seconds", 0.01, "--batch-size", 2],
        ["evaluate", student, *data],
        ["evaluate", bert, "--data", save_reviews(tmp_path / "reviews.csv")],
    ]
    run_python(COMMANDS, json.dumps([[str(word) for word in command] for command in commands]), env=watched)
    lines = Path(watched["WATCH_LOG"]).read_text().splitlines()
    assert [line for line in lines if line.startswith("network")] == []
    imports = {tuple(line.split()[1:]) for line in lines if line.startswith("onnxruntime")}
    # The command's own process, and the worker that times ONNX Runtime.
    assert len(imports) == 2 and {value for _, value in imports} == {"1"}
    # The cache of datasets and the locks of outputs are the only things that are written below the user's home.
    written = {path.relative_to(home).parts[:3] for path in home.rglob("*") if path.is_file()}
    assert written <= {(".cache", "huggingface", "datasets"), (".cache", "compressor", "locks")}


def test_the_python_face_turns_telemetry_off_and_lets_the_user_turn_it_on(watched):
    from compressor.utils.telemetry import VARIABLES

    code = "import compressor, os, sys; print({name: os.environ[name] for name in sys.argv[1:]})"
    assert run_python(code, *VARIABLES, env=watched).strip() == str(VARIABLES)
    chosen = dict.fromkeys(VARIABLES, "on")
    assert run_python(code, *VARIABLES, env={**watched, **chosen}).strip() == str(chosen)


def test_the_watch_notices(watched):
    """What the tests above rely on."""
    code = "import socket\ntry: socket.create_connection(('host.invalid', 80))\nexcept OSError: pass"
    run_python(code, env=watched)
    assert "network socket.getaddrinfo" in Path(watched["WATCH_LOG"]).read_text()
    if "LD_PRELOAD" in watched:
        code = "import ctypes; ctypes.CDLL(None).getaddrinfo(b'host.invalid', None, None, None)"
        run_python(code, env=watched)
        assert "network getaddrinfo host.invalid" in Path(watched["WATCH_LOG"]).read_text()

"""Variables of a launcher that are wrong: each process says so in one line, and none waits for others."""

import os

import pytest
from command import compress, tiny_recipe, write_recipe

from compressor.errors import LaunchError
from compressor.utils import distributed
from compressor.utils.launch import check_connection, check_numbers

ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
NONSENSE = [
    ({"RANK": "one"}, "RANK is 'one' and should be a whole number from 0"),
    ({"RANK": ""}, "RANK is ''"),
    ({"RANK": "-1"}, "RANK is '-1'"),
    ({"RANK": "0.0", "WORLD_SIZE": "2"}, "RANK is '0.0'"),
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0' and should be a whole number from 1"),
    ({"WORLD_SIZE": "-2", "RANK": "0"}, "WORLD_SIZE is '-2'"),
    ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is"),
    ({"RANK": "1"}, "RANK is 1 of 1 process (WORLD_SIZE)"),
    ({"RANK": "2", "WORLD_SIZE": "2", **ADDRESS}, "RANK is 2 of 2 processes"),
    ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
    ({"LOCAL_RANK": "3", "WORLD_SIZE": "2", "RANK": "0", **ADDRESS}, "LOCAL_RANK is 3 of 2"),
    ({"LOCAL_WORLD_SIZE": "all"}, "LOCAL_WORLD_SIZE is 'all'"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http' and should be a whole number from 1 to 65535"),
    ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
]
UNCONNECTED = [
    ({"RANK": "0", "WORLD_SIZE": "2"}, "not MASTER_ADDR and MASTER_PORT"),
    ({"RANK": "1", "WORLD_SIZE": "2"}, "not MASTER_ADDR and MASTER_PORT"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "not MASTER_PORT"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29511"}, "not MASTER_ADDR"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": "29511"}, "not MASTER_ADDR"),
    ({"WORLD_SIZE": "2", **ADDRESS}, "not RANK"),
    ({"LOCAL_RANK": "0"}, "not RANK and MASTER_ADDR and MASTER_PORT"),
    ({"RANK": "0", "WORLD_SIZE": "2", **ADDRESS, "MASTER_ADDR": "no such host"}, "MASTER_ADDR is 'no such host'"),
    ({"RANK": "0", "WORLD_SIZE": "2", **ADDRESS, "MASTER_ADDR": "999.1.1.1"}, "MASTER_ADDR is '999.1.1.1'"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "processes of MPI are not used"),
    ({"PMI_SIZE": "many"}, "processes of MPI are not used"),
]


@pytest.fixture(autouse=True)
def alone():
    """No variables of a launcher, and none left: accelerate sets some itself."""
    before = dict(os.environ)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("variables", "said"), NONSENSE, ids=str)
def test_nonsense_is_refused_by_every_command(capsys, monkeypatch, variables, said):
    set_all(monkeypatch, variables)
    code, out, err = compress(capsys, "plan", "vit-a")
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err and "bug" not in err, err


@pytest.mark.parametrize(("variables", "said"), UNCONNECTED, ids=str)
def test_processes_that_cannot_connect_are_refused_at_the_start(
    capsys, monkeypatch, tmp_path, vit_a, image_folder, variables, said
):
    set_all(monkeypatch, variables)
    recipe = write_recipe(tmp_path / "r.yaml", tiny_recipe([vit_a], image_folder, tmp_path / "student"))
    code, out, err = compress(capsys, "run", recipe)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err and "bug" not in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


@pytest.fixture
def unconnected():
    """accelerate's state of this process, new before and after."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_port_in_use_is_one_line(monkeypatch, unconnected):
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        set_all(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        with pytest.raises(LaunchError, match=f"cannot connect to the other processes at 127.0.0.1:{port}: "):
            distributed.init("cpu")


@pytest.mark.parametrize(
    "variables",
    [{}, {"RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}, {"LOCAL_RANK": "-1"}, {"OMPI_COMM_WORLD_SIZE": "1"}],
    ids=str,
)
def test_a_single_process_needs_nothing(monkeypatch, variables):
    set_all(monkeypatch, variables)
    check_numbers()
    check_connection("cpu")
    assert distributed.is_main_process() and distributed.world_size() == 1


def test_launched_processes_pass(monkeypatch):
    set_all(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **ADDRESS})
    check_numbers()
    check_connection("cuda")
    assert distributed.rank() == 1 and distributed.device_of("cuda") == "cuda:1"

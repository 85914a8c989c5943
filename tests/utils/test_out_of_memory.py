"""Memory that cannot be had is told in one line, and the limits of this process are seen."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from command import compress, write_recipe
from forked import compress_forked

GIB = 1 << 30


class OutOfMemoryError(RuntimeError):
    """As torch calls it on a GPU."""


FAILURES = [
    MemoryError(),
    MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to "
                 "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"),
    OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_every_library_s_failure_is_one_line(capsys, monkeypatch, vit_a, failure, tmp_path):
    from compressor.pipeline.run import context as run_context

    def load(*arguments, **options):
        try:
            raise failure
        except Exception as error:
            raise RuntimeError("the step failed") from error

    monkeypatch.setattr(run_context, "load_ensemble", load)
    code, out, err = compress(capsys, "fuse", vit_a, "-o", tmp_path / "student")
    assert (code, out) == (2, ""), err
    assert err.startswith("error: out of memory: ") and err.count("\n") == 1, err
    assert " free" in err and "bug" not in err


@pytest.mark.parametrize(("index", "asked"), [(1, "7.45 GiB more were asked for"), (2, "8.0 GiB more were asked for"),
                                              (3, "20.00 GiB more were asked for")])  # fmt: skip
def test_what_was_asked_for_is_told(index, asked):
    from compressor.utils.out_of_memory import describe_out_of_memory

    assert asked in describe_out_of_memory(FAILURES[index])


def test_other_errors_are_not_taken_for_it():
    from compressor.utils.out_of_memory import is_out_of_memory

    for error in (ValueError("not enough memory of it"), RuntimeError("shape mismatch"), OSError(errno.ENOSPC, "full")):
        assert not is_out_of_memory(error)


def test_a_model_that_does_not_fit_is_not_called_broken(monkeypatch, vit_a):
    from transformers import ViTForImageClassification

    from compressor.models.folder.weights import load_model

    def read(*arguments, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory: you tried to allocate 5 bytes")

    monkeypatch.setattr(ViTForImageClassification, "from_pretrained", read)
    with pytest.raises(RuntimeError, match=r"alloc_cpu"):
        load_model(vit_a)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_a_limit_is_met_in_one_line(tmp_path, vit_a, capfd):
    import resource

    values = {
        "teachers": [str(vit_a)],
        "output": str(tmp_path / "student"),
        "export": {"onnx": False},
        "bench": {"latency": True, "batch_size": 400_000},
    }

    def limit():
        # What the libraries take is not part of the limit: it differs from machine to machine.
        lines = Path("/proc/self/status").read_text().splitlines()
        held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29),) * 2)

    code, _, err = compress_forked(capfd, "run", write_recipe(tmp_path / "recipe.yaml", values), prepare=limit)
    assert code == 2, err
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: out of memory: ") and "ulimit -v allows" in line, err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
@pytest.mark.parametrize("command", ["doctor", "plan"])
def test_doctor_and_plan_see_the_limit_of_the_shell(vit_a, command, capfd):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (12 * GIB,) * 2)

    named = [vit_a] if command == "plan" else []
    code, out, err = compress_forked(capfd, command, "--json", *named, prepare=limit)
    assert code == 0, err
    memory = json.loads(out)["memory"]
    assert memory["limits"].get("ulimit -v") == 12 * GIB or memory["total"] < 12 * GIB
    assert memory["free"] <= memory["total"] <= 12 * GIB


# What the system tells, of a root that is made up


def machine(root, *, total=16, available=8, cgroup="0::/", **files):
    """Write what Linux tells; sizes in GiB, contents of other files by path."""
    texts = {
        "proc/meminfo": f"MemTotal: {total << 20} kB\nMemFree: 1 kB\nMemAvailable: {available << 20} kB\n",
        "proc/self/cgroup": cgroup + "\n",
        **{path: str(content) for path, content in files.items()},
    }
    for path, content in texts.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


@pytest.fixture
def unlimited(monkeypatch):
    """No ulimit, whatever the tests run under."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def memory_of(root):
    from compressor.utils.out_of_memory import available_memory

    found = available_memory(root)
    return found.total / GIB, found.free / GIB, {name: size / GIB for name, size in found.limits.items()}


def test_the_machine_s_memory(tmp_path, unlimited):
    machine(tmp_path)
    assert memory_of(tmp_path) == (16, 8, {})


def test_a_cgroup_of_version_2(tmp_path, unlimited):
    cgroup = "sys/fs/cgroup/jobs/one/memory"
    files = {f"{cgroup}.max": 4 * GIB, f"{cgroup}.current": 3 * GIB, f"{cgroup}.stat": f"anon 1\ninactive_file {GIB}\n"}
    machine(tmp_path, cgroup="0::/jobs/one", **files)
    assert memory_of(tmp_path) == (4, 2, {"the cgroup": 4})


def test_a_cgroup_above_may_have_the_limit(tmp_path, unlimited):
    machine(
        tmp_path,
        cgroup="0::/jobs/one",
        **{
            "sys/fs/cgroup/jobs/one/memory.max": "max",
            "sys/fs/cgroup/jobs/memory.max": 2 * GIB,
            "sys/fs/cgroup/jobs/memory.current": 2 * GIB,
        },
    )
    assert memory_of(tmp_path) == (2, 0, {"the cgroup": 2})


def test_a_container_sees_its_cgroup_as_the_root(tmp_path, unlimited):
    files = {"sys/fs/cgroup/memory.max": 3 * GIB, "sys/fs/cgroup/memory.current": GIB}
    machine(tmp_path, cgroup="0::/docker/abc", **files)
    assert memory_of(tmp_path) == (3, 2, {"the cgroup": 3})


def test_a_cgroup_of_version_1(tmp_path, unlimited):
    base = "sys/fs/cgroup/memory/jobs"
    files = {f"{base}/memory.limit_in_bytes": 5 * GIB, f"{base}/memory.usage_in_bytes": GIB}
    machine(tmp_path, cgroup="9:cpuset:/x\n4:memory,hugetlb:/jobs\n0::/", **files)
    assert memory_of(tmp_path) == (5, 4, {"the cgroup": 5})
    (tmp_path / base / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert memory_of(tmp_path) == (16, 8, {})


def test_what_cannot_be_read_limits_nothing(tmp_path, unlimited):
    machine(tmp_path, cgroup="nonsense", **{"sys/fs/cgroup/memory.max": "many"})
    assert memory_of(tmp_path) == (16, 8, {})


def test_a_limit_of_the_shell_counts_what_is_held(tmp_path, monkeypatch):
    import resource

    machine(tmp_path, **{"proc/self/status": f"VmSize: {GIB // 1024} kB\nVmData: {GIB // 2048} kB\n"})
    limits = {resource.RLIMIT_AS: 4 * GIB, resource.RLIMIT_DATA: 2 * GIB}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], limits[kind]))
    assert memory_of(tmp_path) == (2, 1.5, {"ulimit -v": 4, "ulimit -d": 2})


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes_have_a_unit_that_fits(size, said):
    from compressor.utils.out_of_memory import format_bytes

    assert format_bytes(size) == said


def test_room_for_few_logits_is_told_in_a_unit_that_fits(monkeypatch, tmp_path):
    import shutil
    from types import SimpleNamespace

    from compressor.distillation.logit_cache import _check_disk
    from compressor.errors import UserError

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    with pytest.raises(UserError, match=r"take 11\.7 KiB, with 256\.0 MiB to spare, and .* has 3\.0 MiB left"):
        _check_disk(tmp_path, 12_000)

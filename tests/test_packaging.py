"""What is said of the package in several files agrees, and what it needs is packaged."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import compressor
from compressor.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_the_version_has_one_place():
    assert compressor.__version__ == __version__
    assert "version" not in PROJECT["project"] and "version" in PROJECT["project"]["dynamic"]
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "compressor.version.__version__"}
    others = [path for path in (ROOT / "compressor").rglob("*.py") if f'"{__version__}"' in path.read_text("utf-8")]
    assert others == [ROOT / "compressor" / "version.py"]


def test_the_wheel_holds_the_package_alone():
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("[!.]*/**/__init__.py")}
    left_out = SETUPTOOLS["packages"]["find"]["exclude"]
    taken = {
        name
        for name in packages
        if any(fnmatch(name, pattern) for pattern in patterns) and not any(fnmatch(name, p) for p in left_out)
    }
    modules = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "compressor").rglob("*.py")}
    assert taken == modules - {"compressor.testing"}


def test_nothing_in_the_wheel_imports_what_is_left_out():
    modules = [path for path in (ROOT / "compressor").rglob("*.py") if "testing" not in path.parts]
    assert [path for path in modules if "compressor.testing" in path.read_text(encoding="utf-8")] == []


def test_files_that_are_no_modules_are_packaged():
    patterns = SETUPTOOLS["package-data"]["compressor"]
    files = [path for path in (ROOT / "compressor").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    names = [path.relative_to(ROOT / "compressor").as_posix() for path in files]
    assert "py.typed" in names
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_no_module_needs_linux_to_be_imported():
    """Modules that only some systems have are imported where they are used, or another way is found."""
    only_some = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "msvcrt", "winreg"}
    for path in (ROOT / "compressor").rglob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                named = {alias.name for alias in statement.names} | {getattr(statement, "module", None)}
                assert not named & only_some, path


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_peak_memory_is_known_on_every_system(monkeypatch, system):
    from compressor.utils import process_memory

    monkeypatch.setattr(process_memory.sys, "platform", system)
    if system != "linux":
        monkeypatch.setattr(process_memory, "Path", lambda name: ROOT / "no" / "proc")
    if system == "darwin":
        usage = SimpleNamespace(ru_maxrss=3 << 20)
        fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
        monkeypatch.setitem(sys.modules, "resource", fake)
    if system == "win32":
        monkeypatch.setitem(sys.modules, "resource", None)
        process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 << 20))
        monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    peak = process_memory.peak_memory()
    assert peak == 3 << 20 if system != "linux" else 1e6 < peak < 1e12


def test_every_requirement_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"].values()
    for need in map(Requirement, chain(PROJECT["project"]["dependencies"], *extras)):
        if need.name != "compressor":
            assert need.specifier.contains(pins[canonicalize_name(need.name)], prereleases=True), need


def test_licence_and_citation_are_those_of_the_metadata():
    assert PROJECT["project"]["license"] == "Apache-2.0" and PROJECT["project"]["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text and "APPENDIX" in text
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "Apache-2.0"
    assert citation["references"][0]["url"] == PROJECT["project"]["urls"]["Paper"]


def test_hooks_and_the_workflow_run_what_the_makefile_has():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    tools = {hook["entry"].split()[0] for repository in repositories for hook in repository["hooks"]}
    assert tools == {".venv/bin/ruff", ".venv/bin/mypy"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    targets = re.findall(r"run: make (\S+)", workflow)
    assert "test" in targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

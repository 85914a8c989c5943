"""Which cases `make test` leaves to `make test-all` by their cost.

`python tests/helpers/slow_cases.py JUNIT.xml` writes tests/slow.txt.  Of a test with several cases the cheapest
stays, and all below `CASE_SECONDS`; the others show the same property of another family, file or setting.
JUNIT.xml is of `pytest --junitxml` on a quiet machine; cases that are listed already stay so.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

#: Seconds of a case that need not be the only one.
CASE_SECONDS = 0.6
#: The file, one "test module::name" a line.
SLOW = Path(__file__).parents[1] / "slow.txt"


def read_slow() -> set[str]:
    """The cases of the file."""
    return set(SLOW.read_text(encoding="utf-8").splitlines())


def case_of(nodeid: str) -> str:
    """A pytest node id, as junit names it."""
    path, *names = nodeid.split("::")
    return "::".join([".".join([path.removesuffix(".py").replace("/", "."), *names[:-1]]), names[-1]])


def costly_cases(junit: Path) -> list[str]:
    """Cases beyond the cheapest of their test that take `CASE_SECONDS` or more."""
    tests: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for case in ElementTree.parse(junit).iter("testcase"):
        module, name = case.attrib["classname"], case.attrib["name"]
        tests[module, name.partition("[")[0]].append((float(case.attrib["time"]), f"{module}::{name}"))
    return sorted(
        name
        for cases in tests.values()
        for seconds, name in sorted(cases)[1:]
        if seconds >= CASE_SECONDS and name.isprintable() and "\\" not in name
    )


if __name__ == "__main__":
    cases = read_slow() if SLOW.exists() else set()
    SLOW.write_text("\n".join(sorted(cases | set(costly_cases(Path(sys.argv[1]))))) + "\n", encoding="utf-8")

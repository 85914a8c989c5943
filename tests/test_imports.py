"""Imports between the rooms of the package run one way, down; `python tests/test_imports.py` prints them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "compressor"
FACE = "compressor"
#: Rooms of the package from the top floor to the ground; a room may import from its own floor and those below.
FLOORS: tuple[tuple[str, ...], ...] = (
    (FACE,),
    ("cli", "api"),
    ("pipeline",),
    ("testing",),
    ("fusion", "distillation", "bench", "export", "report"),
    ("ensemble",),
    ("layer_maps",),
    ("anatomy", "transport", "data"),
    ("models", "recipe"),
    # The recipe is read with its presets, which are plain values.
    ("presets",),
    ("utils",),
    ("errors", "version"),
    ("wording",),
)
#: The same inside `fusion`; its face may import anything.
FUSION_FLOORS: tuple[tuple[str, ...], ...] = (
    ("fusion",),
    ("self_test",),
    ("fuse",),
    ("mixture", "classes"),
    ("joint", "anchored", "result", "streamed_work"),
    ("streamed_memory",),
    ("build",),
    ("maps",),
    ("features", "context"),
    ("shape", "streaming"),
    ("calibration",),
    ("plan", "teacher"),
)
#: Rooms of one floor that must not import from each other, although others of a floor may.
WINGS = (("joint", "anchored"),)
#: {public name: why several modules define it}.
DEFINED_TWICE: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """One module imports another; `at_start` if it does so when it is imported itself."""

    source: str
    target: str
    at_start: bool


Arrows = Mapping[tuple[str, str], list[Import]]


def modules_of(root: Path) -> dict[str, ast.Module]:
    """{dotted name: syntax tree} of all modules of a package; a package has the name of its folder."""
    trees = {}
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def imports_of(trees: Mapping[str, ast.Module]) -> list[Import]:
    """All imports of modules of a package by others of it."""
    package = next(iter(trees)).partition(".")[0]
    found = []
    for source, tree in trees.items():
        for node, at_start in _statements(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source} has a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                target = name if name in trees else name.rpartition(".")[0]
                if name.partition(".")[0] == package and target in trees and target != source:
                    found.append(Import(source, target, at_start))
    return list(dict.fromkeys(found))


def _statements(tree: ast.AST, at_start: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        yield node, at_start
        yield from _statements(node, at_start and not inside)


def room(module: str) -> str:
    """The folder or file below the package that a module belongs to; the package's own face has its name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else FACE


def inner_room(module: str, folder: str) -> str:
    """The same below a folder of the package; "" for modules elsewhere."""
    parts = module.split(".")
    return "" if room(module) != folder else parts[2] if len(parts) > 2 else folder


def fusion_room(module: str) -> str:
    """The same below `fusion`."""
    return inner_room(module, "fusion")


def arrows_between(imports: list[Import], room_of: Callable[[str], str]) -> Arrows:
    """{(room, room that it imports from): the imports}."""
    arrows: dict[tuple[str, str], list[Import]] = defaultdict(list)
    for found in imports:
        ends = room_of(found.source), room_of(found.target)
        if all(ends) and ends[0] != ends[1]:
            arrows[ends].append(found)
    return arrows


def upward(arrows: Arrows, floors: tuple[tuple[str, ...], ...]) -> list[str]:
    """A line for every import of a module on a higher floor, or on the other side of two wings."""
    height = {name: -floor for floor, names in enumerate(floors) for name in names}
    return [
        f"{found.source} imports {found.target}"
        for (source, target), imports in sorted(arrows.items())
        if height[target] > height[source] or any(source in wings and target in wings for wings in WINGS)
        for found in imports
    ]


def circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """The sets of nodes that reach each other, each sorted."""
    after: dict[str, set[str]] = defaultdict(set)
    for source, target in edges:
        after[source].add(target)
    reached = {node: _reachable(node, after) for node in list(after)}
    loops = {tuple(sorted({node, *(o for o in seen if node in reached.get(o, ()))})) for node, seen in reached.items()}
    return sorted(list(loop) for loop in loops if len(loop) > 1)


def _reachable(start: str, after: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for node in after.get(waiting.pop(), set()) - seen:
            seen.add(node)
            waiting.append(node)
    return seen


def floors_of(edges: set[tuple[str, str]]) -> int:
    """How many nodes the longest way down passes, of a graph without circles."""
    below: dict[str, int] = {}

    def depth(node: str, path: tuple[str, ...] = ()) -> int:
        if node not in below:
            nexts = [target for source, target in edges if source == node and target not in path]
            below[node] = 1 + max((depth(target, (*path, node)) for target in nexts), default=0)
        return below[node]

    return max((depth(node) for edge in edges for node in edge), default=0)


def public_names(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """{public name at the top of a module: the modules that define it}; packages are faces and define none."""
    packages = {name.rpartition(".")[0] for name in trees}
    found: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        for node in tree.body if module not in packages else ():
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                names = [node.name]
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            else:
                continue
            for name in names:
                if not name.startswith("_"):
                    found[name].add(module)
    return found


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return modules_of(ROOT)


def test_every_room_has_a_floor(trees: dict[str, ast.Module]) -> None:
    known = {name for floor in (*FLOORS, *FUSION_FLOORS) for name in floor}
    assert {room(module) for module in trees} | {fusion_room(module) for module in trees} - {""} <= known


def test_no_room_imports_upwards(trees: dict[str, ast.Module]) -> None:
    lines = upward(arrows_between(imports_of(trees), room), FLOORS)
    assert not lines, "\n".join(lines)


def test_no_room_of_fusion_imports_upwards(trees: dict[str, ast.Module]) -> None:
    lines = upward(arrows_between(imports_of(trees), fusion_room), FUSION_FLOORS)
    assert not lines, "\n".join(lines)


def test_rooms_do_not_import_each_other(trees: dict[str, ast.Module]) -> None:
    for room_of in (room, fusion_room):
        arrows = arrows_between(imports_of(trees), room_of)
        mutual = [f"{a} and {b}" for a, b in arrows if (b, a) in arrows and a < b]
        assert not mutual, ", ".join(mutual)


def test_no_module_imports_itself_by_way_of_others(trees: dict[str, ast.Module]) -> None:
    assert circles({(found.source, found.target) for found in imports_of(trees) if found.at_start}) == []


def test_no_room_inside_a_folder_imports_itself_by_way_of_others(trees: dict[str, ast.Module]) -> None:
    for folder in {room(module) for module in trees}:
        face = f"{FACE}.{folder}"
        imports = [found for found in imports_of(trees) if found.at_start and face not in (found.source, found.target)]
        loops = circles(set(arrows_between(imports, lambda module, folder=folder: inner_room(module, folder))))
        assert loops == [], folder


def test_nothing_imports_the_helpers_of_tests(trees: dict[str, ast.Module]) -> None:
    assert [source for source, target in arrows_between(imports_of(trees), room) if target == "testing"] == []


def test_no_public_name_is_defined_twice(trees: dict[str, ast.Module]) -> None:
    twice = {name: modules for name, modules in public_names(trees).items() if len(modules) > 1}
    lines = [f"{name}: {', '.join(sorted(modules))}" for name, modules in twice.items() if name not in DEFINED_TWICE]
    assert not lines, "\n".join(lines)
    assert DEFINED_TWICE.keys() <= twice.keys()


def test_the_check_sees_imports_of_every_kind() -> None:
    sources = {
        "p": "from p.a import x",
        "p.a": "from p.b import y\nx = 1",
        "p.b": "import p.c\ndef y():\n    from p import a\n    return a",
        "p.c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x\nx = 2",
    }
    trees = {name: ast.parse(source) for name, source in sources.items()}
    imports = imports_of(trees)
    assert {(i.source, i.target) for i in imports if i.at_start} == {("p", "p.a"), ("p.a", "p.b"), ("p.b", "p.c")}
    assert {(i.source, i.target) for i in imports if not i.at_start} == {("p.b", "p.a"), ("p.c", "p.a")}
    assert circles({(i.source, i.target) for i in imports}) == [["p.a", "p.b", "p.c"]]
    assert {name for name, modules in public_names(trees).items() if len(modules) > 1} == {"x"}
    assert floors_of({("p.a", "p.b"), ("p.b", "p.c"), ("p.a", "p.c")}) == 3


def _report(title: str, arrows: Arrows, floors: tuple[tuple[str, ...], ...]) -> None:
    edges = set(arrows)
    names = {name for edge in edges for name in edge}
    print(f"{title}: {len(names)} rooms, {floors_of(edges)} floors, {len(edges)} arrows")
    for name in (name for floor in floors for name in floor if name in names):
        print(f"  {name} -> {', '.join(sorted(target for source, target in edges if source == name)) or 'nothing'}")
    print(f"  circles of rooms: {circles(edges) or 'none'}")
    print("  upward:", *(upward(arrows, floors) or ["none"]), sep="\n    ")


def main() -> None:
    trees = modules_of(ROOT)
    imports = imports_of(trees)
    _report("compressor", arrows_between(imports, room), FLOORS)
    _report("compressor/fusion", arrows_between(imports, fusion_room), FUSION_FLOORS)
    for folder in sorted({room(name) for name in trees if name.count(".") > 1}):
        inside = [i for i in imports if room(i.source) == room(i.target) == folder]
        print(f"modules of {folder}: {floors_of({(i.source, i.target) for i in inside})} floors, {len(inside)} imports")
    print(f"circles of modules: {circles({(i.source, i.target) for i in imports if i.at_start}) or 'none'}")
    twice = {name: sorted(modules) for name, modules in public_names(trees).items() if len(modules) > 1}
    print(f"public names defined twice: {twice or 'none'}")


if __name__ == "__main__":
    main()

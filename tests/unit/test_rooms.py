"""The rooms of the package: each imports rooms of lower floors only, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mtl

ROOT = Path(mtl.__file__).parent
FLOORS = {
    "base": 1,
    "config": 2,
    "data": 2,
    "model": 3,
    "activations": 4,
    "evaluation": 5,
    "inference": 6,
    "reporting": 6,
    "comparison": 7,
    "serving": 7,
    "training": 8,
    "diagnosis": 9,
    "tuning": 9,
}
READERS_OF_CONFIG = {"comparison", "training", "diagnosis", "tuning"}
"""The other rooms take plain arguments."""
MODULES = {
    ".".join(("mtl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
COMMANDS = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of ``mtl`` that a file imports anywhere, within functions and for types alone too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names if name.startswith("mtl."))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


def room(module: str) -> str:
    return module.split(".")[1]


IN_ROOMS = [module for module in MODULES if module != "mtl" and room(module) not in COMMANDS]


def test_every_folder_is_a_room() -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(FLOORS)


@pytest.mark.parametrize("module", IN_ROOMS)
def test_a_room_imports_lower_floors_only(module: str) -> None:
    others = {room(each) for each in imported(MODULES[module]) if each != "mtl"} - {room(module)}
    assert {each for each in others if FLOORS.get(each, 99) >= FLOORS[room(module)]} == set()
    assert "config" not in others or room(module) in READERS_OF_CONFIG


def test_nothing_imports_a_command() -> None:
    assert {
        each for module in MODULES for each in imported(MODULES[module]) if each in {f"mtl.{c}" for c in COMMANDS}
    } == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: set(imported(path)) - {module} for module, path in MODULES.items() if module != "mtl"}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))

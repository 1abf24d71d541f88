"""Imports go one way: each module imports only from its own floor and the floors below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mtl

ROOT = Path(mtl.__file__).parent
FLOORS = (
    ("errors",),
    ("files", "memory", "schema", "label_tree", "single_task", "run_folder", "new_folder", "terminal"),
    ("task_settings", "config_types"),
    ("config_stages", "config_combine", "config_freezing", "config_checks", "config", "cli"),
    ("activations", "data"),
    ("model",),
    ("encoding",),
    ("features", "evaluation"),
    ("training", "diagnosis"),
    ("artifact", "backbones"),
    ("inference", "inputs", "head_specs", "model_card", "overrides"),
    ("build_freezing", "build_hardware"),
    ("build_losses", "build_combination", "build", "bulk", "composition", "study_jobs"),
    ("reevaluation", "stage_scores", "cache_entries"),
    ("setting", "results", "diagnosing"),
    ("analysis", "bad_steps", "facts", "scores", "companions", "identity"),
    ("fitting", "sentence_maps"),
    ("run", "study"),
    ("train", "evaluate", "predict", "encode", "cache", "diagnose", "compare", "report", "rank"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> set[str]:
    """Return the top names in ``mtl`` that a file imports anywhere, also within its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.ImportFrom) and node.module == "mtl":
            names = [f"mtl.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("mtl.")}
    return found


def top(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_module_has_a_floor() -> None:
    assert {top(path) for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_nothing_from_above(path: Path) -> None:
    above = {name for name in imported(path) if FLOOR[name] > FLOOR[top(path)]}
    assert above == set()


@pytest.mark.parametrize(
    ("floor", "never"),
    [
        ("data", "model"),
        ("model", "training"),
        ("evaluation", "training"),
        ("artifact", "training"),
        ("diagnosis", "training"),
    ],
)
def test_what_a_floor_never_imports(floor: str, never: str) -> None:
    assert never not in {name for path in MODULES if top(path) == floor for name in imported(path)}

"""The parts of Hydra that are not its public interface: a release that changes them is noticed here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import hydra
import pytest

FLAGS = {
    "config_dir",
    "config_name",
    "config_path",
    "experimental_rerun",
    "help",
    "hydra_help",
    "info",
    "multirun",
    "overrides",
    "shell_completion",
}
"""What `mtl.config.command_line` reads of Hydra's flags."""


def part(module: str, name: str) -> Any:
    """Return a part of Hydra, and say what to do where it is gone."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        pytest.fail(f"hydra-core {hydra.__version__} has no {module}.{name}: keep hydra-core<1.4, or adapt mtl/config")


def test_its_argument_parser_has_the_flags_that_we_read() -> None:
    parsed = part("hydra._internal.utils", "get_args_parser")().parse_intermixed_args(["-m", "seed=1", "--info", "all"])
    missing = FLAGS - vars(parsed).keys()
    assert not missing, f"hydra-core {hydra.__version__} has no flag {missing}: adapt mtl/config/command_line.py"
    assert (parsed.multirun, parsed.overrides, parsed.info) == (True, ["seed=1"], "all")


@pytest.mark.parametrize("name", ["BasicLauncher", "BasicSweeper"])
def test_its_own_plugins_are_where_we_expect_them(name: str) -> None:
    module = f"hydra._internal.core_plugins.{name.replace('Basic', 'basic_').lower()}"
    assert part(module, name).__module__ == module


def test_its_grammar_of_arguments() -> None:
    parser = part("hydra.core.override_parser.overrides_parser", "OverridesParser").create()
    override = parser.parse_override("a.b=1,'x y'")
    assert (override.key_or_group, override.package, override.is_sweep_override()) == ("a.b", None, True)
    assert list(override.sweep_string_iterator()) == ["1", "'x y'"]

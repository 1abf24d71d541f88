"""The wheel of this checkout, and a virtual environment that has it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.commands import ROOT


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the checkout, without a network, and return it."""
    source = folder / "source"
    for name in ("mtl", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("mtl-*.whl")
    return wheel


def virtual_environment(folder: Path, wheel: Path) -> Path:
    """Make an environment with the wheel and the packages that it depends on; return its folder of programs.

    The packages are those of this environment, by their path; its own ``mtl`` comes after that of the wheel.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (site,) = folder.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "packages.pth").write_text("".join(f"{path}\n" for path in packages))
    return python.parent

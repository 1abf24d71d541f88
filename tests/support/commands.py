"""Command lines as a user types them: a process of their own, in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def call(module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module`` in ``folder`` and return its exit code and all that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

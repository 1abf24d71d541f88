"""What a benchmark finds: figures in one table, and in a file to compare with later."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import Machine

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "outputs" / "benchmarks"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        what: What was measured.
        measured: The absolute figure with its unit.
        ratio: What counts: dimensionless, of two things measured in turn; its direction is in ``what``.
        share: Share of the machine's matrix rate, nothing where that says nothing.
        target: What is aimed at, nothing where there is no aim.
        details: All else, for the file.
    """

    what: str
    measured: str
    ratio: float | None = None
    share: float | None = None
    target: str = ""
    details: dict[str, object] = field(default_factory=dict)


def ceiling(what: str, precision: str, peer: float, work: float, machine: Machine) -> Figure:
    """Return the most that a ratio can be here: products at the matrix rate, and nothing else to do.

    Args:
        what: What is compared.
        precision: ``fp32`` or ``bf16``, in which we would compute.
        peer: Seconds of the peer.
        work: Floating-point operations that it takes.
        machine: The machine's matrix rates.
    """
    fastest = work / (machine.rate(precision) * 1e12)
    return Figure(
        what=f"{what} {precision}: the ratio at the machine's whole matrix rate, which nothing can exceed",
        measured="ceiling",
        ratio=peer / fastest,
        share=1.0,
    )


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print figures as a table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("what", max_width=70)
    for name in ("measured", "ratio", "of matrix rate", "target"):
        table.add_column(name, justify="right")
    for each in figures:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        share = "" if each.share is None else f"{each.share:.0%}"
        table.add_row(each.what, each.measured, ratio, share, each.target)
    Console(highlight=False, width=140).print(table)


def save(machine: Machine, figures: Sequence[Figure]) -> Path:
    """Write machine, commit and figures to ``outputs/benchmarks/<date>.json`` and return the file."""
    now = datetime.now().astimezone()
    content = {
        "date": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": asdict(machine),
        "figures": [asdict(each) for each in figures],
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{now:%Y-%m-%d_%H-%M-%S}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip()

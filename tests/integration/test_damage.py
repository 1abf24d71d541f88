"""A flipped bit or a missing end, anywhere in a file that a later step reads, is noticed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mtl.base.errors import DataError, ModelError, MtlError
from mtl.base.files import read_yaml
from mtl.base.run_folder import choices_of, find_model, problem_with
from mtl.evaluation.predictions import read_predictions
from mtl.evaluation.run_metrics import read_metrics
from mtl.model.saved import verify_model
from mtl.training.checkpoints import read_checkpoint, verify_checkpoint, write_checkpoint
from mtl.training.jobs import read_record
from tests.support.networks import network

if TYPE_CHECKING:
    from collections.abc import Callable

_PLACES = 200


def damaged(path: Path, count: int, seed: int) -> list[tuple[str, bytes]]:
    """Return the content with a bit flipped at ``count`` random places, and cut off at as many."""
    content = path.read_bytes()
    places = random.Random(seed)  # noqa: S311 - places, not secrets
    found = []
    for _ in range(count):
        bit = places.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        cut = places.randrange(len(content))
        found += [(f"bit {bit} flipped", bytes(flipped)), (f"cut off at byte {cut}", content[:cut])]
    return found


def unnoticed(path: Path, check: Callable[[], object], error: type[Exception], count: int, seed: int) -> list[str]:
    """Return the damage to a file that a check passes over, and put the file back."""
    check()
    before = path.read_bytes()
    missed = []
    for what, content in damaged(path, count, seed):
        path.write_bytes(content)
        try:
            check()
        except error:
            continue
        missed.append(f"{path.name}: {what}")
    path.write_bytes(before)
    return missed


def test_of_a_checkpoint(tmp_path: Path, tiny_folder: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, {"state_dict": network(tiny_folder).state_dict(), "epoch": 3})
    assert unnoticed(path, lambda: verify_checkpoint(path), ModelError, _PLACES, 1) == []


def test_of_a_saved_model(untrained_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(untrained_run / "model", tmp_path / "model"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    places = random.Random(2)  # noqa: S311 - places, not secrets
    chosen = places.choices(files, weights=sizes, k=_PLACES - len(files))
    missed = []
    for at, path in enumerate([*files, *chosen]):
        missed += unnoticed(path, lambda: verify_model(find_model(folder)), ModelError, 1, at)
    assert missed == []


@pytest.mark.parametrize("name", ["metrics.json", "model/mtl.json"])
def test_of_small_files_that_say_what_others_are(name: str, untrained_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(untrained_run, tmp_path / "run"))
    checks: dict[str, tuple[Callable[[], object], type[Exception]]] = {
        "metrics.json": (lambda: read_metrics(folder / "metrics.json"), DataError),
        "model/mtl.json": (lambda: verify_model(folder / "model"), ModelError),
    }
    check, error = checks[name]
    assert unnoticed(folder / name, check, error, _PLACES, 3) == []


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("run.json", "job.json", "metrics.json", "config.yaml", "rows.csv", "last.ckpt"):
        os.mkfifo(tmp_path / name)
    assert "run.json" in problem_with(tmp_path)
    assert choices_of(tmp_path) == {}
    assert read_record(tmp_path) is None
    for read, name in ((read_metrics, "metrics.json"), (read_predictions, "rows.csv"), (read_checkpoint, "last.ckpt")):
        with pytest.raises(MtlError, match="not readable: a pipe, a socket or a device, not a file"):
            read(tmp_path / name)
    with pytest.raises(OSError, match="a pipe, a socket or a device, not a file"):
        read_yaml(tmp_path / "config.yaml")


def test_records_that_are_nested_too_deeply(tmp_path: Path) -> None:
    for name in ("run.json", "job.json"):
        (tmp_path / name).write_text("[" * 100_000)
    assert choices_of(tmp_path) == {}
    assert read_record(tmp_path) is None

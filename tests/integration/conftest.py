"""What several integration tests share: a saved model, and files with every fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mtl.training import compact
from tests.support import runs
from tests.support.bad_files import write_bad_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def untrained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the model of a task ``sentiment``, bad or good, and of ``stars``, 1 to 5. Copy to change it."""
    folder = tmp_path_factory.mktemp("untrained")
    runs.run(folder / "run", *runs.data(folder, ["sentiment", "stars"]), "freeze=all")
    return folder / "run"


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tests.support.bad_files`. Do not write into it."""
    return write_bad_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def whole_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains the whole table of word embeddings, for a look into training; `test_compact_embeddings` has the other."""
    monkeypatch.setattr(compact, "WORTHWHILE", 0.0)

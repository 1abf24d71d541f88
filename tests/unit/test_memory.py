"""Freed memory is kept in a block and given back after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl import memory
from mtl.memory import freed_memory_kept

SIZE = 64 * 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


@pytest.mark.skipif(memory._gnu_library() is None, reason="not the GNU C library")
def test_memory_is_kept_inside_and_given_back_after() -> None:
    before = resident()
    with freed_memory_kept():
        block = b"\1" * SIZE
        assert resident() > before + SIZE // 2
        del block
        assert resident() > before + SIZE // 2
    assert resident() < before + SIZE // 2


def test_without_the_gnu_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_gnu_library", lambda: None)
    with freed_memory_kept():
        pass

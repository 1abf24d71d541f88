"""Freed memory is kept in a block and given back after it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mtl import memory
from mtl.memory import PeakMemory, freed_memory_kept
from tests.support.commands import outside

SIZE = 64 * 2**20
# In a process of its own: in this one a new block would first take what earlier tests have freed.
PROGRAM = f"""
from pathlib import Path
from mtl.memory import freed_memory_kept

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
with freed_memory_kept():
    block = b"1" * {SIZE}
    print(resident() > before + {SIZE} // 2)
    del block
    print(resident() > before + {SIZE} // 2)
print(resident() < before + {SIZE} // 2)
"""


@pytest.mark.skipif(memory._gnu_library() is None, reason="not the GNU C library")
def test_memory_is_kept_inside_and_given_back_after() -> None:
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, env=outside(), capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True", "True"]


def test_without_the_gnu_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_gnu_library", lambda: None)
    with freed_memory_kept():
        pass


def test_the_peak_is_that_of_its_own_time() -> None:
    peak = PeakMemory()
    block = bytearray(b"1") * SIZE
    high = peak.bytes()
    del block
    later = PeakMemory().bytes()
    assert high is not None
    assert high > SIZE
    assert later is None or later < high - SIZE // 2


def test_a_peak_that_an_earlier_one_hides_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_set_back_peak", lambda: False)
    monkeypatch.setattr(memory, "_peak_of_process", lambda: 1000)
    peak = PeakMemory()
    assert peak.bytes() is None
    monkeypatch.setattr(memory, "_peak_of_process", lambda: 1001)
    assert peak.bytes() == 1001

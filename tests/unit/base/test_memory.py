"""Freed memory is kept in a block and given back after it."""

from __future__ import annotations

import mmap
import subprocess
import sys

import pytest

from mtl.base import memory
from mtl.base.memory import PeakMemory, freed_memory_kept
from tests.support.commands import outside

SIZE = 64 * 2**20
# In a process of its own: in this one a new block would first take what earlier tests have freed.
PROGRAM = f"""
from pathlib import Path
from mtl.base.memory import freed_memory_kept

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


RETURNED = """
from mtl.base.memory import freed_memory_returned
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

with freed_memory_returned():
    kept = []
    for _ in range(8):  # large blocks between small ones that stay
        large = [b"1" * (2 * 2**20 + number) for number in range(16)]
        before = resident()
        kept.append(b"1" * 2**16)
        del large
        print(resident() < before - 24 * 2**20)
"""


@pytest.mark.skipif(memory._gnu_library() is None, reason="not the GNU C library")
def test_large_blocks_are_returned_as_soon_as_they_are_freed() -> None:
    command = [sys.executable, "-c", RETURNED]
    found = subprocess.run(command, env=outside(), capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True"] * 8


COMMAND = """
import sys
from mtl.base import cli

def main(arguments):
    import torch

    weight = torch.ones(64, 64)
    for rows in [*range(1, 101), *range(1, 101)]:
        torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 64), weight, None, "none", [], "")

cli.run(main)
"""


@pytest.mark.parametrize(("setting", "hits"), [({}, 0), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, 100)])
def test_a_command_keeps_the_kernels_of_the_last_sizes_only(setting: dict[str, str], hits: int) -> None:
    environment = outside() | setting | {"ONEDNN_VERBOSE": "profile_create"}
    command = [sys.executable, "-c", COMMAND]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "create:cache_miss" not in found.stdout:
        pytest.skip("this PyTorch computes without oneDNN")
    assert found.stdout.count("create:cache_hit") == hits


class Library:
    """Takes note of the calls of the C library."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.trims = 0

    def mallopt(self, parameter: int, value: int) -> None:
        self.calls.append((parameter, value))

    def malloc_trim(self, _: int) -> None:
        self.trims += 1


def test_the_last_of_several_blocks_gives_the_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(memory, "_gnu_library", lambda: library)
    first, second = freed_memory_kept(), freed_memory_kept()
    first.__enter__()
    begun = list(library.calls)
    second.__enter__()
    assert library.calls == begun
    first.__exit__(None, None, None)  # in threads they end in any order
    assert library.calls == begun
    assert library.trims == 0
    second.__exit__(None, None, None)
    assert library.trims == 1
    assert dict(library.calls[len(begun) :]).keys() > dict(begun).keys()


def test_an_error_inside_ends_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(memory, "_gnu_library", lambda: library)
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
    assert library.trims == 1


AFTERWARDS = f"""
import resource
from mtl.base.memory import freed_memory_kept

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

with freed_memory_kept():
    pass
block = b"1" * {8 * 2**20}
del block
before = faults()
for _ in range(10):
    block = b"1" * {8 * 2**20}
    del block
print(faults() - before < {8 * 2**20} // 4096)
"""


@pytest.mark.skipif(memory._gnu_library() is None, reason="not the GNU C library")
def test_later_blocks_are_not_fetched_anew_each_time() -> None:
    command = [sys.executable, "-c", AFTERWARDS]
    found = subprocess.run(command, env=outside(), capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True"]


def test_without_the_gnu_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_gnu_library", lambda: None)
    before = memory._blocks
    with freed_memory_kept():
        assert memory._blocks == before
    assert memory._blocks == before


def test_the_peak_is_that_of_its_own_time() -> None:
    peak = PeakMemory()
    with mmap.mmap(-1, SIZE) as block:  # which goes back to the system, whatever the C library keeps
        block.write(b"1" * SIZE)
        high = peak.bytes()
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

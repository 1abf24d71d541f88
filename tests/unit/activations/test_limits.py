"""The cache of activations keeps to its limit: what goes first, what stays, and what the user is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from mtl.activations import ActivationStore, cache_limit, catalogue, space
from mtl.activations.space import DEFAULT_LIMIT, size_text
from mtl.base.errors import ConfigError, Problem
from tests.support.activations import DIM, add, key, present

ROOM = 4000
"""A limit that holds two of the sources of `source`, but not three."""


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with mock.patch("os.fsync"):
        yield


def source(folder: Path, name: str, age: float, limit: int = ROOM) -> Path:
    """Make a source of some 1,600 bytes that was last used ``age`` seconds ago."""
    with ActivationStore(folder, name, DIM, limit_bytes=limit) as store:
        add(store, range(50))
    os.utime(store.path / "source.json", times=(1e9 - age, 1e9 - age))
    return store.path


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", DEFAULT_LIMIT),
        ("0", 0),
        ("20GB", 20 * 10**9),
        ("500 mb", 500 * 10**6),
        ("1.5G", 1_500_000_000),
        ("2GiB", 2 * 2**30),
        ("100kB", 100_000),
        ("12B", 12),
        ("1TB", 10**12),
    ],
)
def test_the_limit_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("MTL_CACHE_LIMIT", text)
    assert cache_limit() == size


@pytest.mark.parametrize("text", ["9" * 400 + "GB", "1000001TB"])
def test_a_limit_that_is_too_high(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MTL_CACHE_LIMIT", text)
    with pytest.raises(ConfigError) as caught:
        cache_limit()
    assert caught.value.problems == (
        Problem("MTL_CACHE_LIMIT", repr(text), "at most 1000000 TB", "MTL_CACHE_LIMIT=20GB"),
    )


@pytest.mark.parametrize("text", ["20", "much", "-1GB", "1e9B", "20PB", "GB", "1.GB"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    monkeypatch.setenv("MTL_CACHE_LIMIT", text)
    with pytest.raises(ConfigError) as caught:
        ActivationStore(tmp_path, "a", DIM)
    assert str(caught.value) == (
        "Configuration: 1 problem\n"
        "  MTL_CACHE_LIMIT\n"
        f"      found:    {text!r}\n"
        "      expected: a size with its unit, such as 20GB or 500MB; 0 switches the cache off\n"
        "      repair:   MTL_CACHE_LIMIT=20GB"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_949, "999.9 kB"), (999_950, "1 MB"), (10**10, "10 GB")],
)
def test_sizes_are_written_in_the_units_of_the_limit(size: int, text: str) -> None:
    assert size_text(size) == text


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    old, young = source(tmp_path, "old", age=100), source(tmp_path, "young", age=50)
    assert old.exists()
    assert young.exists()
    third = source(tmp_path, "third", age=0)
    assert not old.exists()
    assert young.exists()
    assert third.exists()
    assert total(tmp_path) <= ROOM


def test_use_counts_not_writing(tmp_path: Path) -> None:
    first, second = source(tmp_path, "first", age=100), source(tmp_path, "second", age=50)
    with ActivationStore(tmp_path, "first", DIM, limit_bytes=ROOM) as store:
        assert present(store, range(50)) == list(range(50))
    source(tmp_path, "third", age=0)
    assert first.exists()
    assert not second.exists()


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    old, young = source(tmp_path, "old", age=100), source(tmp_path, "young", age=50)
    with ActivationStore(tmp_path, "old", DIM, limit_bytes=ROOM):
        os.utime(old / "source.json", times=(0, 0))
        source(tmp_path, "third", age=0)
        assert old.exists()
        assert not young.exists()


def test_what_rows_are_lent_from_stays(tmp_path: Path) -> None:
    old = source(tmp_path, "old", age=100)
    with ActivationStore(tmp_path, "old", DIM, limit_bytes=ROOM) as store:
        rows = store.rows([key(1)])
    os.utime(old / "source.json", times=(0, 0))
    del store
    for name in ("b", "c", "d"):
        source(tmp_path, name, age=1)
    assert rows.gather([0])[0].tolist() == [[1, 0, 1]]
    assert old.exists()
    del rows
    source(tmp_path, "e", age=0)
    assert not old.exists()


def test_a_lower_limit_holds_from_the_next_opening(tmp_path: Path) -> None:
    old, young = source(tmp_path, "old", age=100), source(tmp_path, "young", age=50)
    ActivationStore(tmp_path, "young", DIM, limit_bytes=3000).close()
    assert not old.exists()
    assert young.exists()


def test_what_does_not_fit_is_computed_and_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "SEGMENT_ROWS", 10)
    with ActivationStore(tmp_path, "a", DIM, limit_bytes=2000) as store:
        for start in range(0, 200, 10):
            add(store, range(start, start + 10))
        kept = present(store, range(200))
        assert kept == list(range(len(kept)))  # the first ones
        assert 0 < len(kept) < 100
        assert store.room() == 0
    assert 2000 - store.bytes_for(10, 10) < total(tmp_path) <= 2000
    assert [record.getMessage() for record in caplog.records] == [
        f"the cache {tmp_path} is full: {size_text(total(tmp_path))} of at most 2 kB, all of it in use. "
        f"10 rows ({size_text(10 * DIM * 4)}) and those after them are computed but not kept. "
        "Raise the limit with MTL_CACHE_LIMIT=4kB; `python -m mtl.cache` shows what is there"
    ]


def test_a_limit_of_nothing_switches_the_cache_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = source(tmp_path, "a", age=100)
    monkeypatch.setenv("MTL_CACHE_LIMIT", "0")
    with ActivationStore(tmp_path, "a", DIM) as store:
        with store.computing():
            add(store, [1])
        assert store.missing([key(1)]) == [0]
        assert store.room() == 0
    assert old.exists()  # and nothing is removed
    assert not caplog.records


def test_room_counts_what_can_be_removed(tmp_path: Path) -> None:
    source(tmp_path, "idle", age=100)
    used = source(tmp_path, "used", age=50)
    with (
        ActivationStore(tmp_path, "used", DIM, limit_bytes=ROOM),
        ActivationStore(tmp_path, "own", DIM, limit_bytes=ROOM) as own,
    ):
        add(own, range(10))
        taken = total(used) + total(own.path)
        assert own.room() <= ROOM - taken
        taken = total(used) + total(own.path)
        assert own.room() == ROOM - taken
        fits = own.room() // own.bytes_for(1, 1) - 20
        assert fits > 0
        add(own, range(100, 100 + fits))
        assert present(own, range(100, 100 + fits)) == list(range(100, 100 + fits))


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    names = ["notes.txt", "a" * 32, "b" * 31]
    (tmp_path / names[0]).write_text("mine")
    (tmp_path / names[1]).write_text("a file with the name of a source")
    (tmp_path / names[2]).mkdir()
    (tmp_path / names[2] / "big.values").write_bytes(bytes(10_000))
    linked = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    linked.mkdir()
    (linked / "0.values").write_bytes(bytes(10_000))
    (tmp_path / ("c" * 32)).symlink_to(linked)
    for name in ("a", "b", "c"):
        source(tmp_path, name, age=0)
    assert all((tmp_path / name).exists() for name in names)
    assert (linked / "0.values").exists()


def test_a_source_that_cannot_be_removed_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = source(tmp_path, "old", age=100)
    (old / "mine.txt").write_bytes(bytes(4000))
    source(tmp_path, "young", age=50)
    assert f"{old} cannot be removed from the cache: Directory not empty" in [
        record.getMessage() for record in caplog.records
    ]
    assert (old / "mine.txt").exists()


def test_many_rows_of_one_number(tmp_path: Path) -> None:
    with ActivationStore(tmp_path, "a", 1, limit_bytes=10**6) as store:
        store.append([key(at) for at in range(1000)], None, np.arange(1000, dtype=np.float32)[:, None])
        found = store.rows([key(999), key(5)]).gather([0, 1])[0]
        assert found.tolist() == [[999], [5]]


def test_a_full_disk_is_not_blamed_on_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    assert space.way_out(tmp_path, 1) == "raise its limit with the environment variable MTL_CACHE_LIMIT"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    assert space.way_out(tmp_path, 6_670_000) == (
        "its disk has 5 MB left: free some, or set MTL_CACHE_DIR to a folder on another disk"
    )

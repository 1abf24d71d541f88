"""Whatever is appended, in whatever portions, comes back as it was; whatever is damaged, nothing false comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mtl.activations import ActivationStore, catalogue
from mtl.activations.layout import KeyTable, as_keys
from tests.support.activations import DIM, add, key, length, present

numbers = st.lists(st.integers(0, 30), max_size=12)
# keys that share beginnings and ends, zeros among them
keys = st.lists(st.lists(st.sampled_from([0, 1, 255]), min_size=16, max_size=16).map(bytes), max_size=12)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with mock.patch("os.fsync"):
        yield


@settings(deadline=None, max_examples=40)
@given(
    portions=st.lists(st.tuples(numbers, st.sampled_from(["append", "flush", "reopen"])), max_size=6),
    ragged=st.booleans(),
    segment=st.sampled_from([1, 30, 200, 10**6]),
)
def test_what_is_appended_comes_back(portions: list[tuple[list[int], str]], ragged: bool, segment: int) -> None:
    with TemporaryDirectory() as folder, mock.patch.object(catalogue, "SEGMENT_BYTES", segment):
        store = ActivationStore(folder, "a", DIM, ragged=ragged)
        known: set[int] = set()
        for portion, then in portions:
            add(store, portion)
            known.update(portion)
            if then == "flush":
                store.flush()
            if then == "reopen":
                store.close()
                store = ActivationStore(folder, "a", DIM, ragged=ragged)
        assert present(store, range(31)) == sorted(known)
        size = sum(file.stat().st_size for file in store.path.glob("*.values"))
        assert size == sum(length(number) if ragged else 1 for number in known) * DIM * 4
        store.close()


@settings(deadline=None, max_examples=40)
@given(data=st.data(), ragged=st.booleans())
def test_damage_never_gives_a_false_row(data: st.DataObject, ragged: bool) -> None:
    with TemporaryDirectory() as folder:
        with ActivationStore(folder, "a", DIM, ragged=ragged) as store:
            for start in (0, 5, 10):
                add(store, range(start, start + 5))
                store.flush()
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
            content = bytearray(file.read_bytes())
            start = data.draw(st.integers(0, len(content)))
            stop = data.draw(st.integers(start, len(content)))
            content[start:stop] = data.draw(st.binary(max_size=12))
            file.write_bytes(content)
        with ActivationStore(folder, "a", DIM, ragged=ragged) as store:
            survivors = present(store, range(15))
            assert survivors == [number for number in range(15) if number // 5 * 5 in survivors]
            add(store, range(15))
            assert present(store, range(15)) == list(range(15))


@settings(deadline=None, max_examples=40)
@given(limit=st.integers(1, 4000), sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_the_limit_holds(limit: int, sizes: list[int]) -> None:
    with TemporaryDirectory() as folder:
        for source, size in enumerate(sizes):
            with ActivationStore(folder, str(source), DIM, limit_bytes=limit) as store:
                add(store, range(size))
                kept = present(store, range(size))
            assert kept == list(range(len(kept)))
            values = sum(file.stat().st_size for file in Path(folder).rglob("*.*") if file.name != "source.json")
            assert values <= limit
            description = (store.path / "source.json").stat().st_size
            if limit >= description + 64 + size * (DIM * 4 + 16):
                assert len(kept) == size


@settings(deadline=None, max_examples=100)
@given(portions=st.lists(keys, max_size=4), asked=keys, data=st.data())
def test_the_key_table_equals_a_dictionary(
    portions: list[list[bytes]], asked: list[bytes], data: st.DataObject
) -> None:
    table = KeyTable()
    known: dict[bytes, tuple[int, int, int]] = {}
    for segment, portion in enumerate(portions):
        lengths = data.draw(arrays.arrays(np.int64, len(portion), elements=st.integers(0, 9)))
        table.add(segment, as_keys(portion), lengths)
        for row, each in enumerate(portion):
            known.setdefault(each, (segment, int(lengths[:row].sum()), int(lengths[row])))
    removed = data.draw(st.integers(0, 4))
    if removed and all(set(portion).isdisjoint(portions[0]) for portion in portions[1:]):
        table.remove(0)
        known = {each: place for each, place in known.items() if place[0] != 0}
    asked = asked + [each for portion in portions for each in portion]
    there, places = table.find(as_keys(asked))
    assert there.tolist() == [each in known for each in asked]
    found = zip(*(places[field].tolist() for field in ("segment", "start", "length")), strict=True)
    assert list(found) == [known[each] for each in asked if each in known]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 19), max_size=40), st.sampled_from([1, 40, 300]))
def test_ragged_gathering_equals_plain_indexing(indices: list[int], segment: int) -> None:
    random = np.random.default_rng(0)
    rows = [random.random((length(number), DIM), dtype=np.float32) for number in range(20)]
    with TemporaryDirectory() as folder, mock.patch.object(catalogue, "SEGMENT_BYTES", segment):
        with ActivationStore(folder, "a", DIM, ragged=True) as store:
            everything = [key(number) for number in range(20)]
            store.append(everything, [len(row) for row in rows], np.concatenate(rows))
            found, lengths = store.rows(everything).gather(indices)
            assert lengths is not None
        np.testing.assert_array_equal(found, np.concatenate([rows[0][:0], *(rows[at] for at in indices)]))
        assert lengths.tolist() == [len(rows[at]) for at in indices]

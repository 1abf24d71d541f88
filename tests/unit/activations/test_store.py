"""The cache of frozen activations keeps rows, finds them again, and notices every damage."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from mtl.activations import ActivationStore, catalogue, default_folder, row_key, row_keys
from mtl.activations.layout import Block, KeyTable, Layout, as_keys
from mtl.activations.segments import DamagedError, read_index, verify, write_segment
from mtl.activations.space import describe
from mtl.data.tokens import TokenTable
from tests.support.activations import DIM, add, files, key, length, present, vectors


def store(folder: Path, *, ragged: bool = False, source: str = "a") -> ActivationStore:
    return ActivationStore(folder, source, DIM, ragged=ragged)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with mock.patch("os.fsync"):
        yield


@pytest.fixture(params=[False, True], ids=["fixed", "ragged"])
def ragged(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_rows_are_there_for_the_next_run(tmp_path: Path, ragged: bool) -> None:
    with store(tmp_path, ragged=ragged) as first:
        assert present(first, range(10)) == []
        add(first, range(5))
        assert present(first, range(10)) == [0, 1, 2, 3, 4]
        add(first, range(3, 8))
    with store(tmp_path, ragged=ragged) as second:
        assert present(second, range(10)) == list(range(8))


def test_rows_wait_in_memory_until_they_fill_a_segment(
    tmp_path: Path, ragged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "SEGMENT_BYTES", 5 * DIM * 4)
    with store(tmp_path, ragged=ragged) as opened:
        for number in range(12):
            add(opened, [number])
        assert 2 <= len(files(opened, ".index")) <= 6
        for number in range(12, 100):
            add(opened, [number])
    with store(tmp_path, ragged=ragged) as opened:
        assert present(opened, range(100)) == list(range(100))
        sizes = [file.stat().st_size for file in files(opened, ".values")]
        assert max(sizes) < (5 + 4) * DIM * 4  # a segment is full with the row that fills it
        assert sum(sizes) == DIM * 4 * sum(length(number) if ragged else 1 for number in range(100))


def test_segments_have_a_limit_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SEGMENT_ROWS", 4)
    with store(tmp_path) as opened:
        for number in range(10):
            add(opened, [number])
        assert present(opened, range(10)) == list(range(10))
        assert len(files(opened, ".index")) == 3


def test_rows_larger_than_a_segment_have_one_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SEGMENT_BYTES", 1)
    with store(tmp_path, ragged=True) as opened:
        add(opened, [4, 3, 2])
        assert present(opened, [2, 3, 4]) == [2, 3, 4]


def test_rows_do_not_wait_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "PATIENCE_SECONDS", 0.0)
    with store(tmp_path) as opened:
        add(opened, [1])
        assert len(files(opened, ".index")) == 1


def test_what_was_computed_before_an_error_is_kept(tmp_path: Path) -> None:
    def interrupted(opened: ActivationStore) -> None:
        with opened, opened.computing():
            add(opened, [1, 2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(store(tmp_path))
    with store(tmp_path) as opened:
        assert present(opened, [1, 2, 3]) == [1, 2]


def test_a_text_that_comes_twice_is_missing_once_and_stored_once(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        keys = [key(number) for number in (7, 8, 7, 9, 8)]
        assert opened.missing(keys) == [0, 1, 3]
        add(opened, [7, 7, 8])
        add(opened, [8, 9])
        rows = opened.rows(keys)
        np.testing.assert_array_equal(rows.gather(range(5))[0], vectors([7, 8, 7, 9, 8]))
        assert sum(file.stat().st_size for file in files(opened, ".values")) == 3 * DIM * 4


def test_gathering_equals_indexing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SEGMENT_BYTES", 7 * DIM * 4)
    random = np.random.default_rng(0)
    numbers = random.permutation(50).tolist()
    with store(tmp_path) as fixed, store(tmp_path, ragged=True) as variable:
        for number in numbers:
            add(fixed, [number])
            add(variable, [number])
        keys = [key(number) for number in range(50)]
        plain, lengths = vectors(range(50)), [length(number) for number in range(50)]
        for indices in ([], [3], [-1, 0], random.integers(0, 50, 200)):
            picked = np.arange(50)[np.array(indices, int)].tolist()
            np.testing.assert_array_equal(fixed.rows(keys).gather(indices)[0], plain[picked])
            found, counts = variable.rows(keys).gather(indices)
            np.testing.assert_array_equal(found, vectors(picked, [lengths[at] for at in picked]))
            assert counts is not None
            assert counts.tolist() == [lengths[at] for at in picked]
        np.testing.assert_array_equal(fixed.rows(keys).gather([4, 2])[0], plain[[4, 2]])


def test_more_files_than_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SEGMENT_ROWS", 1)
    monkeypatch.setattr("mtl.activations.segments.MAPS", 2)
    with store(tmp_path) as opened:
        for number in range(6):
            add(opened, [number])
        assert present(opened, range(6)) == list(range(6))


def test_rows_stay_valid_when_the_store_is_closed(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        add(opened, range(4))
        rows = opened.rows([key(3), key(1)])
    assert len(rows) == 2
    np.testing.assert_array_equal(rows.gather([0, 1])[0], vectors([3, 1]))


def test_sources_do_not_mix(tmp_path: Path) -> None:
    with store(tmp_path) as first:
        add(first, [1])
    others = [
        store(tmp_path, source="b"),
        store(tmp_path, ragged=True),
        ActivationStore(tmp_path, "a", DIM + 1),
    ]
    for other in others:
        assert other.missing([key(1)]) == [0]
        other.close()


def test_values_are_copied(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        values = vectors([1])
        opened.append([key(1)], None, values)
        values[:] = 0
        assert present(opened, [1]) == [1]


def test_keys_in_an_array(tmp_path: Path) -> None:
    table = TokenTable(np.array([5, 6, 7], np.int32), np.array([0, 1, 1, 3]))
    keys = row_keys(table.ids, table.offsets)
    assert [each.tobytes() for each in keys] == [row_key(table.row(at)) for at in range(3)]
    with store(tmp_path) as opened:
        opened.append(keys[[0, 2]], None, vectors([5, 6]))
        assert opened.missing(keys) == [1]
        np.testing.assert_array_equal(opened.rows(keys[[2]]).gather([0])[0], vectors([6]))


def test_the_key_is_of_the_token_ids() -> None:
    # as `printf '\\x01\\x00\\x00\\x00\\x02\\x00\\x00\\x00' | b2sum -l 128` gives it
    for dtype in (np.int32, np.int64, ">i4"):
        assert row_key(np.array([1, 2], dtype)).hex() == "2cc5e4d47c5f3c5fbe635a5a5b7bb392"
    assert row_key(np.array([], np.int32)).hex() == "cae66941d9efbd404e4d88758ea67670"  # of nothing


def test_keys_that_end_in_zeros_differ() -> None:
    keys = as_keys([b"a" + bytes(15), bytes(16), b"a" + bytes(14) + b"b", b"\xff" * 16])
    table = KeyTable()
    table.add(0, keys[:2], np.array([1, 1]))
    table.add(1, keys[2:], np.array([1, 1]))
    there, places = table.find(keys)
    assert there.all()
    assert places["segment"].tolist() == [0, 0, 1, 1]
    assert places["start"].tolist() == [0, 1, 0, 1]


def test_no_rows_at_all(tmp_path: Path, ragged: bool) -> None:
    with store(tmp_path, ragged=ragged) as opened:
        add(opened, [])
        assert opened.missing([]) == []
        assert len(opened.rows([])) == 0
        found, counts = opened.rows([]).gather([])
        assert found.shape == (0, DIM)
        assert counts is None or counts.shape == (0,)
        assert not files(opened, ".index")


def test_rows_without_vectors_alone(tmp_path: Path) -> None:
    with store(tmp_path, ragged=True) as opened:
        add(opened, [0, 5, 10])
        assert present(opened, [5, 0]) == [5, 0]
    with store(tmp_path, ragged=True) as opened:
        assert present(opened, [0, 5, 10]) == [0, 5, 10]


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        add(opened, [1])
        with pytest.raises(KeyError) as caught:
            opened.rows([key(1), key(2), key(3)])
        assert caught.value.args == (f"2 of 3 rows are not in the cache {opened.path}",)
        with pytest.raises(IndexError):
            opened.rows([key(1)]).gather([1])


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    fixed, variable = store(tmp_path), store(tmp_path, ragged=True)
    values = vectors([1, 2])
    two = [key(1), key(2)]

    def refusal(opened: ActivationStore, *arguments: object) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is checked
            opened.append(*arguments)  # type: ignore[arg-type]
        return str(caught.value)

    assert refusal(fixed, two, None, values.astype(np.float64)) == "values are float64 (2, 3); expected float32 (2, 3)"
    assert refusal(fixed, two, None, values[:1]) == "values are float32 (1, 3); expected float32 (2, 3)"
    assert refusal(fixed, two, None, values[:, :2]) == "values are float32 (2, 2); expected float32 (2, 3)"
    assert refusal(variable, two, [2], values) == "lengths are (1,); expected (2,)"
    assert refusal(variable, two, [2, 1], values) == "values are float32 (2, 3); expected float32 (3, 3)"
    fixed.close()
    variable.close()


def test_a_source_is_described_as_in_earlier_versions() -> None:
    """Else the rows that they have cached would not be found."""
    facts = json.loads(describe("a", Layout(3)))
    del facts["version"]
    assert facts == {"source": "a", "byteorder": sys.byteorder, "dim": 3, "dtype": "float32", "ragged": False}


def filled(folder: Path, ragged: bool) -> ActivationStore:
    """Return a closed store with rows 0 to 9 in a segment, and 10 to 19 in another."""
    with store(folder, ragged=ragged) as opened:
        for numbers in (range(10), range(10, 20)):
            add(opened, numbers)
            opened.flush()
    return opened


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the content with each of its bits flipped, cut after each byte, and with bytes too many."""
    for bit in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(damaged)
    yield from ((f"{size} bytes", content[:size]) for size in range(len(content)))
    yield "a byte too many", content + b"\0"


@pytest.mark.parametrize("suffix", [".index", ".values"])
def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path, ragged: bool, suffix: str) -> None:
    layout = Layout(DIM, ragged)
    counts = np.array([length(number) if ragged else 1 for number in range(3)])
    rows = Block(as_keys([key(number) for number in range(3)]), counts, vectors(range(3), counts.tolist()))
    segment = write_segment(tmp_path / ("0" * 32), layout, rows)
    verify(read_index(segment.index, layout)[0])

    for what, damaged in damages(segment.index.with_suffix(suffix).read_bytes()):
        segment.index.with_suffix(suffix).write_bytes(damaged)
        try:
            verify(read_index(segment.index, layout)[0])
        except DamagedError:
            continue
        pytest.fail(f"{what} not noticed")


@pytest.mark.parametrize("suffix", [".index", ".values"])
def test_a_damaged_file_costs_its_rows_alone(
    tmp_path: Path, ragged: bool, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = files(filled(tmp_path, ragged), suffix)[0]
    kept = {path: path.read_bytes() for path in file.parent.glob(f"{file.stem}.*")}
    content = kept[file]
    for damaged in (content[:-1], content + b"\0", b"", content[:30] + bytes([content[30] ^ 1]) + content[31:]):
        file.write_bytes(damaged)
        caplog.clear()
        with store(tmp_path, ragged=ragged) as opened:
            assert present(opened, range(20)) == list(range(10, 20))
        named = f"{file.with_suffix('.index')}: damaged ("
        assert [record.getMessage().startswith(named) for record in caplog.records] == [True]
        assert not any(path.exists() for path in kept)
        for path, whole in kept.items():
            path.write_bytes(whole)


def test_a_damaged_segment_is_named_removed_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(tmp_path, ragged=False).path
    first, second = (file.with_suffix("") for file in files(filled(tmp_path, ragged=False), ".index"))
    first.with_suffix(".values").write_bytes(bytes(10 * DIM * 4))
    second.with_suffix(".values").unlink()
    with store(tmp_path) as opened:
        assert present(opened, range(20)) == []
        add(opened, range(20))
        assert present(opened, range(20)) == list(range(20))
    reasons = {first: "the checksum of its values does not match", second: "its values are gone"}
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        f"{stem}.index: damaged ({reason}); removed, its rows are computed again" for stem, reason in reasons.items()
    )
    assert len(list(path.glob("*.index"))) == len(list(path.glob("*.values"))) == 1


def test_values_that_are_not_asked_for_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = files(filled(tmp_path, ragged=False), ".values")[0]
    first.write_bytes(bytes(first.stat().st_size))
    with store(tmp_path) as opened:
        assert present(opened, range(10, 20)) == list(range(10, 20))
        assert not caplog.records
        add(opened, [3])  # asks for it
        assert present(opened, range(5)) == [3]
    assert len(caplog.records) == 1


def test_a_segment_of_another_source_is_not_taken(tmp_path: Path) -> None:
    closed = filled(tmp_path, ragged=False)
    with store(tmp_path, source="b") as other:
        for file in closed.path.glob("*.*"):
            if file.suffix in (".index", ".values"):
                (other.path / file.name).write_bytes(file.read_bytes())
        assert present(other, range(20)) == []


def test_a_damaged_description_is_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = filled(tmp_path, ragged=False).path / "source.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"a"', b'"b"'))
    with store(tmp_path) as opened:
        assert present(opened, range(20)) == list(range(20))
    assert file.read_bytes() == content
    assert [record.getMessage() for record in caplog.records] == [f"{file}: damaged; written again"]


def test_leftovers_are_removed(tmp_path: Path) -> None:
    path = filled(tmp_path, ragged=False).path
    for name in (".partial-0123456789abcdef.values", "0123456789abcdef.values", "1-00000000.use"):
        (path / name).write_bytes(b"x")
    with store(tmp_path) as opened:
        names = {each.suffix for each in path.iterdir() if each.name != "source.json"}
        assert names == {".index", ".values", ".lock", ".use"}
        assert len(list(path.glob("*.use"))) == 1
        assert present(opened, range(20)) == list(range(20))
    assert not list(path.glob("*.use"))


def test_a_segment_that_another_process_wrote_or_removed_is_noticed(tmp_path: Path) -> None:
    with store(tmp_path) as first, store(tmp_path) as second:
        add(first, [1, 2])
        first.flush()
        assert present(second, [1, 2, 3]) == [1, 2]
        for file in files(first, ".index"):
            file.unlink()
        assert present(second, [1, 2, 3]) == []


def test_a_cache_that_was_deleted_under_a_store_is_built_again(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        add(opened, [1])
        opened.flush()
        for file in files(opened, ".index") + files(opened, ".values"):
            file.unlink()
        add(opened, [1, 2])
        assert present(opened, [1, 2]) == [1, 2]


def test_a_folder_that_cannot_be_used_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    with store(folder) as opened:
        with opened.computing():
            add(opened, [1])
        assert opened.missing([key(1)]) == [0]
        assert opened.room() == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"activations are computed but not kept: the cache {folder} cannot be written (Not a directory)"
    ]


def test_a_full_disk_costs_a_warning_and_no_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    closed = filled(tmp_path, ragged=False)
    before = {file: file.read_bytes() for file in closed.path.iterdir()}
    with store(tmp_path) as opened:
        monkeypatch.setattr("os.fsync", full)
        add(opened, [20, 21])
        assert present(opened, range(22)) == list(range(20))
        add(opened, [22])
        assert opened.missing([key(22)]) == [0]
    assert {file: file.read_bytes() for file in closed.path.iterdir()} == before
    assert [record.getMessage() for record in caplog.records] == [
        f"activations are computed but not kept: the cache {tmp_path} cannot be written (No space left on device)"
    ]


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path))
    assert default_folder() == tmp_path / "activations"
    monkeypatch.delenv("MTL_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "mtl" / "activations"


def test_a_wait_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl.activations.space._QUIET_SECONDS", 0.0)
    caplog.set_level(logging.WARNING)
    with (
        store(tmp_path) as first,
        store(tmp_path) as second,
        first.computing(),
        pytest.raises(RuntimeError, match=r"^Deadlock"),  # one thread would wait for itself
        second.computing(),
    ):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"waiting for another process that computes the same activations ({first.path})"
    ]


def test_the_store_needs_no_torch() -> None:
    code = "import sys, mtl.activations; assert not {'torch', 'pyarrow', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])

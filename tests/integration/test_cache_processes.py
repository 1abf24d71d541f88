"""The cache of activations between processes: none spoils what another is at, and any may be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtl.activations import ActivationStore
from tests.support.activations import DIM, add, present

ROOT = Path(__file__).parents[2]
TOTAL = 300
PRELUDE = f"""
import os, signal, sys, time
from mtl.activations import ActivationStore, catalogue
from tests.support.activations import DIM, add, key, present
folder, TOTAL = sys.argv[1], {TOTAL}
"""


def start(code: str, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that runs ``code`` after `PRELUDE`."""
    command = [sys.executable, "-c", PRELUDE + code, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process to end well and return what it printed."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output


def go(process: subprocess.Popen[str]) -> None:
    """Let a process go on that waits for a line."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def said(process: subprocess.Popen[str], word: str) -> None:
    """Wait until the process prints a line that is ``word``."""
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def rows_on_disk(store: ActivationStore) -> int:
    return sum(file.stat().st_size for file in store.path.glob("*.values")) // (DIM * 4)


APPEND = """
catalogue.SEGMENT_ROWS = 7
first, last, step = map(int, sys.argv[2:])
with ActivationStore(folder, "a", DIM) as store:
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(first, last, step):
        add(store, [number])
"""


def test_two_processes_that_append_at_once(tmp_path: Path) -> None:
    processes = [start(APPEND, tmp_path, *numbers) for numbers in ((0, TOTAL, 1), (TOTAL - 1, -1, -1))]
    for process in processes:
        said(process, "open")
    for process in processes:
        go(process)
    for process in processes:
        finish(process)
    with ActivationStore(tmp_path, "a", DIM) as store:
        assert present(store, range(TOTAL)) == list(range(TOTAL))
        assert rows_on_disk(store) == TOTAL  # none twice


COMPUTE = """
catalogue.SEGMENT_ROWS = 20
with ActivationStore(folder, "a", DIM) as store:
    print("open", flush=True)
    sys.stdin.readline()
    with store.computing():
        missing = store.missing([key(number) for number in range(TOTAL)])
        print(len(missing), flush=True)
        for number in missing:
            add(store, [number])
            time.sleep(0.001)
    assert present(store, range(TOTAL)) == list(range(TOTAL))
"""


def test_the_second_of_two_that_want_the_same_waits_and_computes_nothing(tmp_path: Path) -> None:
    processes = [start(COMPUTE, tmp_path) for _ in range(3)]
    for process in processes:
        said(process, "open")
    for process in processes:
        go(process)
    assert sorted(int(finish(process)) for process in processes) == [0, 0, TOTAL]
    with ActivationStore(tmp_path, "a", DIM) as store:
        assert rows_on_disk(store) == TOTAL


def test_the_second_goes_on_where_the_first_was_killed(tmp_path: Path) -> None:
    stops = COMPUTE.replace("time.sleep(0.001)", "number == 150 and (print('half', flush=True), time.sleep(99))")
    first, second = start(stops, tmp_path), start(COMPUTE, tmp_path)
    for process in (first, second):
        said(process, "open")
    go(first)
    said(first, str(TOTAL))
    said(first, "half")
    go(second)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert int(finish(second)) == TOTAL - 140  # seven segments of 20 rows were whole


KILLED = """
steps = int(sys.argv[2])

def counted(plain):
    def call(*arguments, **named):
        global steps
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **named)
    return call

from pathlib import Path
os.fsync = counted(os.fsync)
Path.replace = counted(Path.replace)
Path.unlink = counted(Path.unlink)
Path.mkdir = counted(Path.mkdir)
os.utime = counted(os.utime)
catalogue.SEGMENT_ROWS = 5
with ActivationStore(folder, "a", DIM, ragged=True) as store:
    add(store, range(5))
    add(store, range(5, 10))
print("ended")
"""


def test_a_process_killed_at_any_step_leaves_nothing_half(tmp_path: Path) -> None:
    kept: list[int] = []
    for step in range(1, 100):
        folder = tmp_path / str(step)
        process = start(KILLED, folder, step)
        output, _ = process.communicate(timeout=60)
        with ActivationStore(folder, "a", DIM, ragged=True) as store:
            found = present(store, range(10))
            assert found == list(range(len(found)))
            assert len(found) % 5 == 0
            kept.append(len(found))
            names = sorted(path.suffix for path in store.path.iterdir())
            segments = len(found) // 5
            whole = [".index"] * segments + [".json", ".lock", ".use"] + [".values"] * segments
            assert names == whole  # the lock and the lease are our own
            add(store, range(10))
            assert present(store, range(10)) == list(range(10))
        if output:
            assert process.returncode == 0
            break
        assert process.returncode == -signal.SIGKILL
    assert kept == sorted(kept)
    assert set(kept) == {0, 5, 10}
    assert len(kept) > 10


def test_a_process_killed_at_any_moment_leaves_nothing_false(tmp_path: Path) -> None:
    endless = APPEND.replace("range(first, last, step)", "range(10**9)").replace("[number]", "[number, number % 9]")
    for pause in (0.0, 0.01, 0.05, 0.1):
        process = start(endless, tmp_path, 0, 0, 1)
        said(process, "open")
        go(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(pause)
        process.kill()
        process.communicate()
        with ActivationStore(tmp_path, "a", DIM) as store:
            found = present(store, range(100_000))
            assert found == list(range(len(found)))
            assert rows_on_disk(store) == len(found)


HOLD = """
store = ActivationStore(folder, "held", DIM)
add(store, range(50))
if sys.argv[2] == "rows":
    rows = store.rows([key(1)])
    store.close()
else:
    store.flush()
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("what", ["store", "rows"])
def test_what_a_living_process_uses_is_not_removed(tmp_path: Path, what: str) -> None:
    def write(source: str) -> None:
        with ActivationStore(tmp_path, source, DIM, limit_bytes=3000) as store:
            add(store, range(50))

    process = start(HOLD, tmp_path, what)
    said(process, "open")
    (held,) = (path.parent for path in tmp_path.glob("*/source.json"))
    os.utime(held / "source.json", times=(0, 0))
    for source in "abc":
        write(source)
    assert held.exists()
    os.kill(process.pid, signal.SIGKILL)  # it cannot say goodbye
    process.communicate()
    write("d")
    assert not held.exists()


def test_a_forked_process_does_not_end_the_lease_of_its_parent(tmp_path: Path) -> None:
    code = """
store = ActivationStore(folder, "a", DIM)
child = os.fork()
if child == 0:
    del store
    sys.exit(0)
os.waitpid(child, 0)
assert len(list(store.path.glob("*.use"))) == 1
from mtl.activations.space import is_used
assert is_used(store.path)
store.close()
assert not is_used(store.path)
print("ended")
"""
    assert finish(start(code, tmp_path)) == "ended\n"


def test_a_process_that_ends_well_leaves_no_lease(tmp_path: Path) -> None:
    finish(start('store = ActivationStore(folder, "a", DIM)\nadd(store, [1])\nstore.flush()', tmp_path))
    assert not list(tmp_path.rglob("*.use"))
    with ActivationStore(tmp_path, "a", DIM) as store:
        assert present(store, [1]) == [1]


FLAT = """
import numpy as np
from mtl.activations import row_keys

def private() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

rows, dim = 1_000_000, 384
keys = row_keys(np.arange(rows), np.arange(rows + 1))
before, most = private(), 0
with ActivationStore(folder, "a", dim) as store, store.computing():
    for start in range(0, rows, 4096):
        which = np.arange(start, min(start + 4096, rows))
        store.append(keys[which], None, np.repeat(which[:, None], dim, axis=1).astype(np.float32))
        most = max(most, private())
    lent = store.rows(keys)
for start in range(0, rows, 4096):
    which = (np.arange(start, min(start + 4096, rows)) * 7919) % rows
    assert (lent.gather(which)[0][:, 0] == which).all()
    most = max(most, private())
print(most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the private memory of a process on Linux")
def test_a_million_rows_take_no_memory(tmp_path: Path) -> None:
    taken = int(finish(start(FLAT, tmp_path)))
    shutil.rmtree(tmp_path)  # pytest would keep 1.5 GB
    assert taken < 400 * 2**20  # of 1.5 GB: a segment that waits, keys and places, and while they are sorted twice

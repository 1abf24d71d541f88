"""Predicting and encoding whole folders: the same rows however they are shared out, also after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.commands import call, outside, run

TEXTS = [f"{word} {thing} number {at}" for at in range(5) for word in ("good", "bad") for thing in ("phone", "film")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the texts in three formats."""
    folder = tmp_path_factory.mktemp("input")
    (folder / "a.csv").write_text("text,id\n" + "".join(f"{text},{at}\n" for at, text in enumerate(TEXTS)))
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:5]))
    (folder / "sub").mkdir()
    pq.write_table(pa.table({"text": TEXTS[5:]}), folder / "sub" / "c.parquet")
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_predictions_are_those_of_single_files(untrained_run: Path, source: Path, tmp_path: Path) -> None:
    arguments = (f"model={untrained_run}", "device=cpu", "precision=fp32", "task=sentiment")
    done = run("mtl.predict", *arguments, f"input={source}", f"output={tmp_path / 'whole'}", "rows=8")
    assert (done.code, done.out) == (0, f"40 sentences of 3 files -> {tmp_path / 'whole'} (6 outputs)\n"), done.err
    table = pq.read_table(tmp_path / "whole")
    assert table["text"].to_pylist() == [*TEXTS, *TEXTS[:5], *TEXTS[5:]]
    single = run("mtl.predict", *arguments, f"input={source / 'a.csv'}", f"output={tmp_path / 'a.parquet'}")
    assert single.code == 0, single.err
    expected = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == expected.column_names
    for name in expected.column_names:
        values, others = table[name].to_pylist()[: len(TEXTS)], expected[name].to_pylist()
        assert values == (pytest.approx(others, abs=1e-6) if name.startswith("p(") else others)
    pattern = f"input={source}/*.*"  # csv and jsonl, as one file each
    for name in ("csv", "jsonl"):
        done = run("mtl.predict", *arguments, pattern, f"output={tmp_path / name}", f"format={name}")
        assert done.code == 0, done.err
        assert sorted(path.name for path in (tmp_path / name).glob("*.*") if path.name[0] != "_") == [
            f"a.csv-00000.{name}",
            f"b.jsonl-00000.{name}",
        ]
        single = run("mtl.predict", *arguments, f"input={source / 'a.csv'}", f"output={tmp_path / 'a'}.{name}")
        assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / name / f"a.csv-00000.{name}").read_bytes()


@pytest.mark.slow
def test_processes_and_jobs_give_the_same_rows(untrained_run: Path, source: Path, tmp_path: Path) -> None:
    arguments = [f"model={untrained_run}", "device=cpu", "precision=fp32", f"input={source}", "rows=4"]
    done = run("mtl.predict", *arguments, f"output={tmp_path / 'whole'}")
    assert done.code == 0, done.err
    two = call("mtl.predict", *arguments, "processes=2", f"output={tmp_path / 'two'}", folder=tmp_path)
    assert two.returncode == 0, two.stderr
    for job in (2, 1):
        done = run("mtl.predict", *arguments, f"shard={job}/2", f"output={tmp_path / 'jobs'}")
        assert done.code == 0, done.err
    assert outputs(tmp_path / "two") == outputs(tmp_path / "jobs") == outputs(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_command_continues_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\n" + "".join(f"row number {at}\n" for at in range(4_000)))
    arguments = ["model=tiny", "device=cpu", f"input={tmp_path / 'in.csv'}", "rows=50"]
    command = [sys.executable, "-m", "mtl.encode", *arguments, f"output={tmp_path / 'out'}/"]
    records = tmp_path / "out" / "_parts"
    with subprocess.Popen(command, env=outside(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while process.poll() is None and len(list(records.glob("in.csv-*.json"))) < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in records.glob("in.csv-*.json")}
    assert 3 <= len(before) < 80
    done = run("mtl.encode", *arguments, f"output={tmp_path / 'out'}/")
    assert done.code == 0, done.err
    assert done.out.endswith(f"(80 outputs, {len(before)} of them finished before)\n")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    files = sorted((tmp_path / "out").glob("in.csv-*.npy"))
    single = run("mtl.encode", *arguments[:-1], f"output={tmp_path / 'single.npy'}")
    assert single.code == 0, single.err
    whole = np.load(tmp_path / "single.npy")
    assert np.concatenate([np.load(file) for file in files]) == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_same_rows(untrained_run: Path, source: Path, tmp_path: Path) -> None:
    for command, model in (("mtl.predict", str(untrained_run)), ("mtl.encode", "tiny")):
        arguments = [f"model={model}", "device=cpu", "precision=fp32", f"input={source}", "rows=8"]
        # a thread in each process: sums in another number of threads may differ in their last bit
        done = call(command, *arguments, f"output={tmp_path / command}", folder=tmp_path, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        on_ray = call(command, *arguments, "engine=ray", "processes=2", f"output={command}-ray", folder=tmp_path)
        assert on_ray.returncode == 0, on_ray.stderr
        assert on_ray.stdout == f"40 sentences of 3 files -> {command}-ray (6 outputs)\n"
        assert "Traceback" not in on_ray.stderr
        assert outputs(tmp_path / f"{command}-ray") == outputs(tmp_path / command)


def test_another_model_in_the_same_folder_is_refused(source: Path, tmp_path: Path, tiny_folder: Path) -> None:
    arguments = ["device=cpu", f"input={source}/*.jsonl", f"output={tmp_path / 'out'}"]
    assert run("mtl.encode", "model=tiny", *arguments).code == 0
    assert run("mtl.encode", f"model={tiny_folder}", *arguments).code == 0  # the same weights by another name
    before = outputs(tmp_path / "out")
    done = run("mtl.encode", "model=minilm", "rows=7", *arguments)
    assert done.code == 2
    places = [line.strip() for line in done.err.splitlines() if line.startswith("  ") and line[2] != " "]
    assert places == [f"{tmp_path / 'out'}/_settings.json: {name}" for name in ("model", "rows")]
    assert outputs(tmp_path / "out") == before


def test_options_that_a_model_lacks_leave_no_folder(untrained_run: Path, source: Path, tmp_path: Path) -> None:
    arguments = [f"model={untrained_run}", "device=cpu", f"input={source}", f"output={tmp_path / 'out'}"]
    for wrong in ("task=mood", "prompt_name=query"):
        assert run("mtl.predict", *arguments, wrong).code == 2
        assert not (tmp_path / "out").exists()

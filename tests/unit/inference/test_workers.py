"""Making parts, in one process or several: each once, whole, and what is finished stays when one fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mtl.base.errors import DataError, ModelError, MtlError, Problem
from mtl.base.files import write_text_atomically
from mtl.inference.folders import Outputs, Part, Settings, planned
from mtl.inference.workers import Write, complete

SETTINGS = Settings(
    "encode", input="", model="1f", text_column="text", suffix=".npy", rows=2, precision="fp32", prompt_name=None
)


def load(device: str | None, threads: int, *, fails_at: str = "", dies_at: str = "", missing: bool = False) -> Write:
    """Return a "model" that writes the texts in capitals with its process."""
    if device == "nowhere" or missing:
        raise ModelError(Problem("model", "none", "a model"))

    def write(texts: Sequence[str], path: Path) -> None:
        if fails_at in texts:
            raise ModelError(Problem("the encoder", "NaN", "finite embeddings"))
        if dies_at in texts:
            os._exit(9)
        write_text_atomically(path, "".join(f"{text.upper()}\n" for text in texts))

    return write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("".join(f"a{at}\n" for at in range(7)))
    (folder / "sub" / "b.csv").write_text("text\n" + "".join(f"b{at}\n" for at in range(4)))
    return folder


def plan(source: Path, output: Path, shard: str | None = None) -> tuple[Outputs, list[Part]]:
    return planned(str(output), replace(SETTINGS, input=str(source)), shard, [])


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.*"))}


def finish(source: Path, output: Path, processes: int = 1, shard: str | None = None) -> str:
    outputs, parts = plan(source, output, shard)
    return complete(parts, outputs, load, device=None, processes=processes)


def test_processes_and_jobs_write_what_one_process_writes(source: Path, tmp_path: Path) -> None:
    line = finish(source, tmp_path / "whole")
    assert line == f"11 sentences of 2 files -> {tmp_path / 'whole'} (6 outputs)"
    whole = content(tmp_path / "whole")
    assert "".join(whole[f"a.txt-0000{at}.npy"] for at in range(4)) == "A0\nA1\nA2\nA3\nA4\nA5\nA6\n"
    assert whole["sub/b.csv-00001.npy"] == "B2\nB3\n"
    finish(source, tmp_path / "two", processes=2)
    for job in (3, 1, 2):
        finish(source, tmp_path / "jobs", shard=f"{job}/3")
    assert content(tmp_path / "two") == content(tmp_path / "jobs") == whole


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_finished_stays_when_a_part_fails(processes: int, source: Path, tmp_path: Path) -> None:
    outputs, parts = plan(source, tmp_path / "out")
    with pytest.raises(ModelError) as error:
        complete(parts, outputs, partial(load, fails_at="a5"), device=None, processes=processes)
    assert [problem.place for problem in error.value.problems] == ["the encoder, a.txt-00002"]
    assert not outputs.has(parts[2])
    assert not list(outputs.folder.rglob(".partial*"))
    before = {outputs.file(part): outputs.file(part).stat().st_mtime_ns for part in parts if outputs.has(part)}
    assert len(before) >= 2 - processes + 1
    line = finish(source, tmp_path / "out", processes)
    assert line.endswith(f"(6 outputs, {len(before)} of them finished before)")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    finish(source, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_finished_folder_loads_no_model(source: Path, tmp_path: Path) -> None:
    finish(source, tmp_path / "out")
    outputs, parts = plan(source, tmp_path / "out")
    line = complete(parts, outputs, load, device="nowhere", processes=1)
    assert line.endswith("(6 outputs, 6 of them finished before)")


def test_a_process_that_dies_is_reported(source: Path, tmp_path: Path) -> None:
    outputs, parts = plan(source, tmp_path / "out")
    with pytest.raises(MtlError) as error:
        complete(parts, outputs, partial(load, dies_at="b3"), device=None, processes=2)
    (problem,) = error.value.problems
    assert problem.found == "ended with exit code 9"
    assert finish(source, tmp_path / "out").startswith("11 sentences of 2 files")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_model_that_cannot_be_loaded_leaves_no_folder(processes: int, source: Path, tmp_path: Path) -> None:
    outputs, parts = plan(source, tmp_path / "out")
    with pytest.raises(ModelError, match="a model"):
        complete(parts, outputs, load, device="nowhere", processes=processes)
    assert not outputs.folder.exists()


def test_a_changed_file_is_done_again_and_leaves_nothing_of_before(source: Path, tmp_path: Path) -> None:
    finish(source, tmp_path / "out")
    (source / "a.txt").write_text("new\n")
    line = finish(source, tmp_path / "out")
    assert line.endswith("(3 outputs, 2 of them finished before)")
    finish(source, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_file_that_changes_after_the_check_is_refused(source: Path, tmp_path: Path) -> None:
    outputs, parts = plan(source, tmp_path / "out")
    (source / "a.txt").write_text("shorter\n")
    with pytest.raises(DataError, match="changed after it was checked"):
        complete(parts, outputs, load, device=None, processes=1)
    assert not list(outputs.folder.glob("a.txt*"))

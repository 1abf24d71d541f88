"""Output folders: which parts there are, which job makes them, and how a finished one is recognised."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mtl.base.errors import ConfigError, MtlError
from mtl.inference.arguments import Arguments
from mtl.inference.folders import (
    Outputs,
    Part,
    Settings,
    goes_to_folder,
    input_files,
    parts_of,
    planned,
    shard_of,
)

SETTINGS = Settings(
    "encode", input="in", model="1f", text_column="text", suffix=".npy", rows=4, precision="fp32", prompt_name=None
)


def write_rows(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"sentence {at}\n" for at in range(count)))
    return path


def written(outputs: Outputs, part: Part, content: str = "result") -> None:
    outputs.folder.mkdir(exist_ok=True)
    outputs.file(part).parent.mkdir(parents=True, exist_ok=True)
    outputs.file(part).write_text(content)
    outputs.note(part)


@pytest.mark.parametrize("files", [1, 3, 5])
@pytest.mark.parametrize("jobs", [1, 2, 3, 7])
def test_every_part_is_of_one_job(files: int, jobs: int, tmp_path: Path) -> None:
    named = {f"{at}.txt": write_rows(tmp_path / f"{at}.txt", 3 + 5 * at) for at in range(files)}
    whole = parts_of(named, SETTINGS, (0, 1))
    shards = [parts_of(named, SETTINGS, (job, jobs)) for job in range(jobs)]
    assert sorted(part.file for shard in shards for part in shard) == sorted(part.file for part in whole)
    assert {part for shard in shards for part in shard} == set(whole)
    for file in named.values():
        ranges = [(part.start, part.stop) for part in whole if part.source == file]
        assert [row for start, stop in ranges for row in range(start, stop)] == list(range(ranges[-1][1]))
        assert all(stop - start <= SETTINGS.rows for start, stop in ranges)


def test_with_as_many_files_as_jobs_a_job_reads_its_own_files_only(tmp_path: Path) -> None:
    named = {name: write_rows(tmp_path / name, 9) for name in ("a.txt", "b.txt")}
    (tmp_path / "b.txt").write_bytes(b"\xff")
    assert [part.file for part in parts_of(named, SETTINGS, (0, 2))] == [f"a.txt-0000{at}" for at in range(3)]


def test_files_of_a_folder_and_of_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.CSV", "sub/c.jsonl", ".hidden.csv", "_parts/a.json", "notes.md", "odd[1].csv"):
        write_rows(tmp_path / "in" / name, 1)
    assert list(input_files(str(tmp_path / "in"))) == ["a.CSV", "b.txt", "odd[1].csv", "sub/c.jsonl"]
    assert list(input_files(f"{tmp_path}/in/*.txt")) == ["b.txt"]
    assert list(input_files(f"{tmp_path}/*/**/[abc].*")) == ["in/a.CSV", "in/b.txt", "in/sub/c.jsonl"]
    assert list(input_files(str(tmp_path / "in" / "odd[1].csv"))) == ["odd[1].csv"]
    monkeypatch.chdir(tmp_path / "in")
    assert input_files("*.txt") == {"b.txt": Path("b.txt")}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("{}/*.parquet", "no file that matches {}/*.parquet"),
        ("{}/empty", "no file in {}/empty"),
        ("{}/*/../../x.csv", "'{}/*/../../x.csv'"),
    ],
)
def test_no_input_file(source: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        input_files(source.format(tmp_path))
    assert [problem.found for problem in error.value.problems] == [found.format(tmp_path)]


def test_what_goes_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    file = write_rows(tmp_path / "odd[1].txt", 1)
    assert goes_to_folder(str(tmp_path), None)
    assert goes_to_folder(f"{tmp_path}/*.csv", "out.csv")
    assert goes_to_folder(str(file), f"{tmp_path}/new/")
    assert goes_to_folder(str(file), f"{tmp_path}/out")
    assert not goes_to_folder(str(file), f"{tmp_path}/out.csv")
    for source in ("-", None):
        assert not Arguments(model="a", input=source, output=f"{tmp_path}/out").to_folder


@pytest.mark.parametrize("text", ["", "3", "0/16", "17/16", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="from 1/16 to 16/16"):
        shard_of(text or "/")


def test_shards() -> None:
    assert [shard_of(text) for text in (None, "1/1", "3/16", "16/16")] == [(0, 1), (0, 1), (2, 16), (15, 16)]


def test_a_part_is_finished_only_as_it_was_made(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "out", SETTINGS)
    part = Part(tmp_path / "a.txt", "ab", 9, "sub/a.txt-00001", 4, 8)
    assert not outputs.has(part)
    written(outputs, part)
    assert outputs.has(part)
    assert not outputs.has(replace(part, checksum="ac"))
    assert not outputs.has(replace(part, total=8))
    assert not Outputs(outputs.folder, replace(SETTINGS, precision="bf16")).has(part)
    outputs.file(part).write_text("cut")
    assert not outputs.has(part)
    for damaged in ("", "{", "[]", "[" * 100_000):
        outputs.record(part).write_text(damaged)
        assert not outputs.has(part)
    written(outputs, part)
    outputs.file(part).unlink()
    assert not outputs.has(part)


def test_outputs_behind_the_end_of_a_file_are_removed(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "out", SETTINGS)
    names = ("a.txt-00000", "a.txt-00001", "a.txt-00002", "a.txt-00003", "a.txt-x.txt-00009", "sub/a.txt-00009")
    for name in names:
        written(outputs, Part(tmp_path / "a.txt", "ab", 16, name, 0, 4))
    outputs.remove_behind(Part(tmp_path / "a.txt", "ac", 8, "a.txt-00000", 0, 4))
    left = sorted(path.relative_to(outputs.folder).as_posix() for path in outputs.folder.rglob("*.npy"))
    assert left == sorted(f"{name}.npy" for name in names if name not in ("a.txt-00002", "a.txt-00003"))
    assert len(list(outputs.folder.rglob("*.json"))) == 4


def test_other_settings_are_refused_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    Outputs(folder, SETTINGS).begin()
    Outputs(folder, SETTINGS).check()
    other = Outputs(folder, replace(SETTINGS, model="2e", coverage=0.9))
    other.begin()  # does not replace them
    with pytest.raises(ConfigError) as error:
        other.check()
    repair = "give the settings that made its outputs, or another output folder"
    assert [str(problem) for problem in error.value.problems] == [
        f"{folder}/_settings.json: model\n    found:    '1f'\n    expected: '2e', as here\n    repair:   {repair}",
        f"{folder}/_settings.json: coverage\n    found:    null\n    expected: 0.9, as here\n    repair:   {repair}",
    ]


@pytest.mark.parametrize("content", ["{", "[]", "[1]", "{}", '{"command": "encode", "speed": 1}', "[" * 100_000])
def test_damaged_settings_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "_settings.json").write_text(content)
    with pytest.raises(ConfigError) as error:
        Outputs(tmp_path, SETTINGS).check()
    assert all(problem.place.startswith(f"{tmp_path}/_settings.json") for problem in error.value.problems)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".partial-0123456789abcdef.json").touch()  # of a job that starts at the same time
    Outputs(tmp_path, SETTINGS).check()
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(ConfigError, match=r"which holds thesis\.doc and no _settings\.json"):
        Outputs(tmp_path, SETTINGS).check()


def test_all_problems_come_together_and_nothing_is_written(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_rows(source / "a.csv", 2)
    write_rows(source / "b.csv", 0)
    settings = replace(SETTINGS, input=str(source))
    with pytest.raises(MtlError) as error:
        planned(str(source / "out"), settings, "4/3", [])
    places = [problem.place for problem in error.value.problems]
    assert places == ["shard", f"{source}/a.csv:1", f"{source}/b.csv", "output"]
    assert str(error.value).startswith("Input: 4 problems")
    with pytest.raises(ConfigError) as without:
        planned(None, replace(settings, input=f"{tmp_path}/*.tsv"), None, [])
    assert [problem.place for problem in without.value.problems] == ["output", "input"]
    assert json.dumps(sorted(path.name for path in tmp_path.rglob("*"))) == '["a.csv", "b.csv", "in"]'

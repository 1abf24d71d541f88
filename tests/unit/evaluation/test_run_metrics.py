"""The file metrics.json: its layout, and what is said about a damaged one."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl.base.errors import DataError
from mtl.base.files import write_sealed_json
from mtl.base.schema import read_record
from mtl.evaluation.metrics import task_report
from mtl.evaluation.records import Retention, TaskReport
from mtl.evaluation.run_metrics import Cost, RunMetrics, check_file, checksums, plain, read_metrics, write_metrics
from tests import support

TOO_DEEP = "maximum recursion depth exceeded while decoding a JSON array from a unicode string"


def report() -> TaskReport:
    return task_report(torch.tensor([[3, 1], [0, 4]]), ['zürich "1"', "any"])


def metrics() -> RunMetrics:
    return RunMetrics(
        tasks={"sentiment": {"val": report(), "test": report()}},
        cost=Cost(12.5, 10, 100, 321.0, 2**30, 3, 7.5),
        run={"experiment": "full_finetune", "seed": 0},
        retention=Retention(0.9, 0.8, 108),
    )


def written(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "metrics.json"
    write_metrics(path, metrics())
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_layout(tmp_path: Path) -> None:
    _, values = written(tmp_path)
    assert list(values) == ["tasks", "cost", "retention", "run", "checksum"]
    assert list(values["tasks"]["sentiment"]) == ["val", "test"]
    test = values["tasks"]["sentiment"]["test"]
    assert list(test) == [field.name for field in fields(TaskReport)][:-3]  # nothing else was measured
    assert test["accuracy"] == 0.875
    assert test["per_class"]["any"] == {"precision": 0.8, "recall": 1.0, "f1": pytest.approx(8 / 9), "support": 4}
    assert list(test["per_class"]) == ['zürich "1"', "any"]
    assert test["confusion"] == [[3, 1], [0, 4]]
    assert values["cost"] == {
        "train_seconds": 12.5,
        "trainable_parameters": 10,
        "total_parameters": 100,
        "sentences_per_second": 321.0,
        "peak_memory_bytes": 2**30,
        "skipped_steps": 3,
        "encoding_seconds": 7.5,
        "total_seconds": 20.0,
    }
    assert values["retention"] == {"before": 0.9, "after": 0.8, "pairs": 108}
    assert values["run"] == {"experiment": "full_finetune", "seed": 0}


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    assert read_metrics(path) == metrics()


def test_a_file_of_an_earlier_version_is_read_whole(tmp_path: Path) -> None:
    """The file was written when each field was still parsed by hand."""
    path = Path(support.__file__).parent / "earlier_run" / "metrics.json"
    write_metrics(tmp_path / "metrics.json", read_metrics(path))
    before, after = (json.loads(each.read_text(encoding="utf-8")) for each in (path, tmp_path / "metrics.json"))
    del before["checksum"], after["checksum"]
    assert after == before
    assert {"tasks", "cost", "retention", "gradients", "run", "files"} == after.keys()
    assert {"stages", "calibration"} <= after["tasks"]["classification"]["test"].keys()


def test_what_was_not_measured_is_null_and_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(path, RunMetrics(tasks={}, cost=Cost(sentences_per_second=math.nan), run={"loss": math.inf}))
    assert "NaN" not in path.read_text()
    assert read_metrics(path) == RunMetrics(tasks={}, cost=Cost(), run={"loss": None})


def test_unknown_keys_and_missing_facts_are_passed_over(tmp_path: Path) -> None:
    path, values = written(tmp_path)
    del values["run"], values["cost"]["peak_memory_bytes"]
    del values["cost"]["encoding_seconds"], values["cost"]["total_seconds"]  # as in runs of older versions
    values["cost"]["watts"] = 300
    write_sealed_json(path, values)
    cost = read_metrics(path).cost
    assert cost == Cost(12.5, 10, 100, 321.0, None, 3)
    assert (cost.encoding_seconds, cost.total_seconds) == (None, None)
    assert read_metrics(path).run == {}


def test_all_damages_are_named_together(tmp_path: Path) -> None:
    path, values = written(tmp_path)
    test, val = values["tasks"]["sentiment"]["test"], values["tasks"]["sentiment"]["val"]
    test["accuracy"] = None
    del test["macro_f1"]
    test["confusion"] = [[1, 2]]
    val["per_class"]["any"]["support"] = -1
    values["tasks"]["topic"] = []
    values["cost"]["train_seconds"] = "12 s"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError) as error:
        read_metrics(path)
    assert str(error.value) == (
        "Data: 6 problems\n"
        f"  {path}: tasks.sentiment.val.per_class.any.support\n"
        "      found:    -1\n"
        "      expected: greater than or equal to 0\n"
        f"  {path}: tasks.sentiment.test.accuracy\n"
        "      found:    null\n"
        "      expected: a number\n"
        f"  {path}: tasks.sentiment.test.macro_f1\n"
        "      found:    nothing: the key is missing\n"
        "      expected: a value\n"
        f"  {path}: tasks.sentiment.test.confusion\n"
        "      found:    [[1, 2]]\n"
        "      expected: 2 lists of 2 whole numbers\n"
        f"  {path}: tasks.topic\n"
        "      found:    []\n"
        "      expected: keys with values\n"
        f"  {path}: cost.train_seconds\n"
        "      found:    '12 s'\n"
        "      expected: a number"
    )


@pytest.mark.parametrize("number", ["NaN", "1e999", "1" + "0" * 400, "true"])
def test_what_is_no_finite_number_is_refused(tmp_path: Path, number: str) -> None:
    path, values = written(tmp_path)
    path.write_text(json.dumps(values).replace("12.5", number))
    with pytest.raises(DataError, match=r"cost\.train_seconds\n +found: .*\n +expected: a (finite )?number$"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "not JSON: Expecting value (line 1, column 1)"),
        (b'{"tasks": {\n', "not JSON: Expecting property name enclosed in double quotes (line 2, column 1)"),
        (b'{"tasks": "\xff"}', "not UTF-8 text (byte 11)"),
        (
            b"[" * 100_000,
            "not JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        ),
    ],
)
def test_a_damaged_file(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_metrics(path)
    assert str(error.value) == (
        "Data: 1 problem\n"
        f"  {path}\n"
        f"      found:    {found}\n"
        "      expected: the metrics.json of a finished run\n"
        "      repair:   evaluate the run again: it writes this file"
    )


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_json_of_another_kind(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        read_metrics(path)
    assert str(error.value) == f"Data: 1 problem\n  {path}\n      found:    {content}\n      expected: keys with values"


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(DataError) as error:
        read_metrics(path)
    assert str(error.value) == (
        "Data: 1 problem\n"
        f"  {path}\n"
        "      found:    no such file\n"
        "      expected: the metrics.json of a finished run\n"
        "      repair:   look for the run's folder; a run writes metrics.json when it ends"
    )


def test_a_report_from_a_dictionary_names_its_source() -> None:
    values = plain(report())
    del values["per_class"]
    with pytest.raises(DataError) as error:
        read_record(TaskReport, values, "old.json")
    assert str(error.value) == (
        "Data: 1 problem\n  old.json: per_class\n      found:    nothing: the key is missing\n      expected: a value"
    )


def test_a_changed_figure_is_noticed(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("0.875", "0.975"), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_metrics(path)
    assert str(caught.value) == (
        f"Data: 1 problem\n  {path}\n"
        "      found:    a changed or damaged file: its checksum differs\n"
        "      expected: the metrics.json of a finished run\n"
        "      repair:   evaluate the run again: it writes this file"
    )


def test_the_checksums_of_the_files_beside_it_are_kept(tmp_path: Path) -> None:
    for name in ("predictions/mood_test.csv", "maps/mood_test.npz", "predictions/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("0.7", encoding="utf-8")
    files = checksums(tmp_path)
    assert list(files) == ["maps/mood_test.npz", "predictions/mood_test.csv"]
    write_metrics(tmp_path / "metrics.json", RunMetrics({}, files=files))
    assert read_metrics(tmp_path / "metrics.json").files == files
    path = tmp_path / "predictions" / "mood_test.csv"
    check_file(tmp_path, path, files)
    path.write_text("0.8", encoding="utf-8")
    check_file(tmp_path, path, {})  # of an older run
    with pytest.raises(DataError) as caught:
        check_file(tmp_path, path, files)
    assert str(caught.value) == (
        f"Data: 1 problem\n  {path}\n      found:    a changed or damaged file: its checksum differs\n"
        "      expected: the file as the run wrote it\n      repair:   copy the run again, or evaluate it again"
    )

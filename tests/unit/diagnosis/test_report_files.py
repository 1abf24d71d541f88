from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

from mtl.diagnosis.report import write_csv_files, write_diagnosis, write_findings
from tests.support.diagnoses import diagnosis, duplicate, need

if TYPE_CHECKING:
    from pathlib import Path

FOUND = diagnosis([need("bad", 0.03, 0.01, 0.05)], [duplicate("test", "good"), duplicate("train", "bad")])


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_suspects_are_ranked_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    write_csv_files(tmp_path, FOUND)
    header, *found = rows(tmp_path / "suspects_mood.csv")
    assert header == ["rank", "text", "label", "suggested label", "score", "suspected", "source"]
    assert found[0] == ["1", "'=cmd()|x", "good", "bad", "0.1", "yes", "a.csv:3"]
    assert found[1] == ["2", "Fine", "good", "bad", "0.1", "yes", "a.csv:5"]
    assert [row[5] for row in found[2:]] == ["no"] * 4
    assert [row[0] for row in found] == ["1", "2", "3", "4", "5", "6"]


def test_confusions_duplicates_and_needs_have_files(tmp_path: Path) -> None:
    names = {path.name for path in write_csv_files(tmp_path, FOUND)}
    kinds = ("suspects", "confusions", "duplicates", "data_need")
    assert names == {f"{kind}_mood.csv" for kind in kinds} == {path.name for path in tmp_path.iterdir()}
    assert rows(tmp_path / "confusions_mood.csv")[1] == ["good", "bad", "2", "4", "0.5", "'=cmd()|x", "a.csv:3"]
    first = ["yes", "0.97", "train", "good", "Great.", "a.csv:2"]
    assert rows(tmp_path / "duplicates_mood.csv")[1:] == [
        ["leak", *first, "test", "good", "'=Great", "test.csv:3"],
        ["different labels", *first, "train", "bad", "'=Great", "train.csv:3"],
    ]
    assert rows(tmp_path / "data_need_mood.csv")[1] == [
        "bad",
        "40",
        "50",
        "50",
        "0.03",
        "0.01",
        "0.05",
        "0.06",
        "0.5",
        "yes",
    ]


def test_the_findings_are_json(tmp_path: Path) -> None:
    write_findings(tmp_path / "diagnosis.json", {"run": "x"}, [FOUND])
    found = json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))
    assert found["run"] == "x"
    task = found["tasks"]["mood"]
    assert task["words"][0].startswith("collect more 'bad'")
    assert task["data_need"][0]["macro_f1_gain"] == 0.03
    assert task["duplicates"] == {"leak": 1, "different labels": 1, "repeated": 0}
    assert task["suspects"] == 2


def test_the_report_begins_with_words_and_shows_everything(tmp_path: Path) -> None:
    picture = tmp_path / "learning_curves_mood.svg"
    write_diagnosis(tmp_path / "diagnosis.md", {"run": "my_run"}, [FOUND], {"mood": [picture]})
    text = (tmp_path / "diagnosis.md").read_text(encoding="utf-8")
    assert text.startswith("# Diagnosis\n\n- **run**: my_run\n\n## Task mood\n\n- collect more 'bad': ")
    assert "| bad   |   40 |   +0.030 | +0.010 to +0.050 | +0.060 |  50% of samples |" in text
    assert "![learning curves](learning_curves_mood.svg)" in text
    assert "**Near-duplicates** (1 leak, 1 different labels, 0 repeated)" in text
    cells = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines()]
    assert ["| Fine", "good", "bad", "a.csv:5", "0.100 |"] in cells

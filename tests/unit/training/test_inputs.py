"""The inputs of a run: where data and weights are looked for, and that their problems come together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from mtl.base.errors import DataError, ModelError, MtlError, Problem
from mtl.config.checks import load
from mtl.config.fields import Config
from mtl.data.named_datasets import DatasetSpec
from mtl.training.inputs import absolute, dataset_files, dataset_rows, load_inputs, task_specs
from tests.support.configs import changed, composed

CORPUS = Path(__file__).parents[3] / "mtl" / "data" / "bundled" / "reviews"
MOOD = {"good.": "positive", "bad.": "negative", "fine.": "positive", "poor.": "negative"}


def config(tasks: dict[str, Any], **changes: Any) -> Config:
    """Return a configuration with these tasks and other values at some keys (``backbone__path``)."""
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return load(changed({"data.tasks": tasks, **keys}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A labelled file."""
    path = tmp_path / "mood.csv"
    rows = [f"{text} {number},{label}" for number in range(10) for text, label in MOOD.items()]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return path


def test_the_shipped_corpus_and_the_random_weights_are_found(tiny_folder: Path) -> None:
    inputs = load_inputs(load(composed()))
    assert list(inputs.tasks) == ["classification", "sentiment"]
    assert inputs.tasks["sentiment"].labels.names == ("negative", "positive")
    assert inputs.weights == tiny_folder


def test_bundled_files_stand_beside_the_package() -> None:
    spec = task_specs(load(composed()).data)[1]
    assert (spec.name, spec.train) == ("sentiment", CORPUS / "sentiment" / "train.csv")


def test_every_setting_of_a_task_arrives() -> None:
    values = {
        "train": "~/a.csv",
        "val": "b.csv",
        "test": "/c.csv",
        "text_column": "body",
        "label_column": 0,
        "labels": [1, 0],
    }
    spec = task_specs(config({"stars": values}, data__split=[0.6, 0.2, 0.2]).data)[0]
    assert (spec.train, spec.val, spec.test, spec.path) == (Path.home() / "a.csv", Path("b.csv"), Path("/c.csv"), None)
    assert (spec.text_column, spec.label_column, spec.labels) == ("body", "0", ("1", "0"))
    assert spec.fractions == (0.6, 0.2, 0.2)


def test_every_setting_of_a_data_set_arrives() -> None:
    values = {"dataset": "a/b", "config": "c", "revision": "main", "splits": {"val": "dev", "test": None}}
    spec = task_specs(config({"stars": values}).data)[0]
    assert spec.dataset == DatasetSpec("a/b", "c", "main", {"val": "dev", "test": None}, "data.tasks.stars")


def test_a_run_and_a_study_see_that_the_rows_of_a_data_set_have_changed(tmp_path: Path) -> None:
    folder = tmp_path / "moods"
    settings = config({"mood": {"dataset": str(folder)}})
    rows, contents = [], []
    for last in ("one", "other"):
        columns = {"text": [f"{text} {at}" for text in MOOD for at in range(9)], "label": [*MOOD.values()] * 9}
        columns["text"][-1] = last
        Dataset.from_dict(columns).save_to_disk(str(folder))
        rows.append(dataset_rows(settings, load_inputs(settings).tasks))
        contents.append([path.read_bytes() for path in dataset_files(settings)])
    assert rows[0].keys() == rows[1].keys() == {f"data.tasks.mood.dataset={folder}[train]"}
    assert rows[0] != rows[1]
    assert contents[0] != contents[1]


def test_one_file_is_split(file: Path) -> None:
    task = load_inputs(config({"mood": {"path": str(file)}})).tasks["mood"]
    assert [len(task.train), len(task.val), len(task.test)] == [32, 4, 4]


def test_problems_of_data_and_weights_come_together(tmp_path: Path, file: Path) -> None:
    (tmp_path / "empty.csv").touch()
    tasks = {"mood": {"path": str(file), "label_column": "stars"}, "topic": {"train": str(tmp_path / "empty.csv")}}
    with pytest.raises(MtlError) as caught:
        load_inputs(config(tasks, backbone__path=str(tmp_path / "nothing")))
    assert str(caught.value) == (
        "Input: 3 problems\n"
        "  backbone.path\n"
        f"      found:    there is no folder {tmp_path}/nothing\n"
        "      expected: a folder in the hub's layout: config.json, model.safetensors, tokenizer.json, and for a "
        "sentence-transformers model modules.json with the files that it names\n"
        f"  {file}:1\n"
        "      found:    columns 'text', 'label'\n"
        "      expected: a column 'stars'\n"
        "      repair:   name the column that holds the labels with data.tasks.mood.label_column=, or add a header "
        "line\n"
        f"  {tmp_path}/empty.csv\n"
        "      found:    an empty file (0 bytes)\n"
        "      expected: rows\n"
        "      repair:   write it again, or name another file"
    )


def test_problems_of_one_kind_keep_their_kind(tmp_path: Path, file: Path) -> None:
    with pytest.raises(DataError):
        load_inputs(config({"mood": {"path": str(tmp_path)}}))
    with pytest.raises(ModelError):
        load_inputs(config({"mood": {"path": str(file)}}, backbone__path=str(tmp_path / "nothing")))


def test_a_model_to_start_from_that_is_none(tmp_path: Path, file: Path) -> None:
    tasks = {"mood": {"path": str(file)}}
    expected = "a saved model, a folder with mtl.json, or a run folder with model/"
    for name, found, repair in (
        ("nothing", "no such folder", "give the run folder that training printed at its end"),
        (file.name, "a file", "give the run folder that training printed at its end"),
        ("", "a folder that holds mood.csv", "a run writes its model at its end: see its train.log"),
    ):
        path = tmp_path / name
        with pytest.raises(ModelError) as caught:
            load_inputs(config(tasks, model__init_from=str(path)))
        assert caught.value.problems == (Problem(f"model.init_from: {path}", found, expected, repair),)


def test_a_copy_of_the_configuration_holds_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    tasks: dict[str, Any] = {"c": {"dataset": "local"}, "d": {"dataset": "owner/name"}}
    tasks |= {"a": {"path": "a.csv"}, "b": {"train": "~/b.csv", "test": "bundled:reviews/sentiment/test.csv"}}
    found = absolute(config(tasks, backbone__path="tiny", model__init_from="run"))
    assert found.data.tasks["a"].path == str(tmp_path / "a.csv")
    assert found.data.tasks["b"].train == str(Path.home() / "b.csv")
    assert found.data.tasks["b"].test == "bundled:reviews/sentiment/test.csv"
    assert found.data.tasks["b"].val is None
    assert [found.data.tasks[name].dataset for name in "cd"] == [str(tmp_path / "local"), "owner/name"]
    assert (found.backbone.path, found.model.init_from) == (str(tmp_path / "tiny"), str(tmp_path / "run"))
    assert absolute(found) == found

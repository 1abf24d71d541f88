"""Data sets by name: local folders, folders of ``save_to_disk``, the hub's cache; every error with its whole text."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from mtl.base import hub
from mtl.base.errors import DataError
from mtl.data.named_datasets import DatasetSpec
from mtl.data.tasks import TaskData, TaskSpec, load_task

TRAIN = [(f"{word} film {at}", word) for at in range(10) for word in ("good", "bad")]
VAL = [("a good one", "good"), ("a bad one", "bad")]
TEST = [("very good", "good"), ("very bad", "bad")]
CLASSES = Features({"sentence": Value("string"), "label": ClassLabel(names=["good", "bad", "mixed"])})
KEY = "data.tasks.sentiment"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "reviews"
    made.mkdir()
    return made


def write_csv(path: Path, rows: list[tuple[str, Any]], label: str = "label") -> None:
    path.write_text("".join(f"{text},{name}\n" for text, name in [("text", label), *rows]))


def of_classes(rows: Sequence[tuple[str, str | int]]) -> Dataset:
    texts, labels = zip(*rows, strict=True)
    return Dataset.from_dict({"sentence": list(texts), "label": list(labels)}, features=CLASSES)


def load(name: Path | str, **options: Any) -> TaskData:
    of_set = {key: options.pop(key) for key in ("config", "revision", "splits") if key in options}
    dataset = DatasetSpec(str(name), config_key=KEY, **of_set)
    return load_task(TaskSpec("sentiment", dataset=dataset, **options), seed=0)


def refusal(name: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(name, **options)
    return str(caught.value)


def sizes(task: TaskData) -> list[int]:
    return [len(rows) for rows in task.splits.values()]


# What can be loaded.


def test_a_local_folder_of_csv_files(folder: Path) -> None:
    for name, rows in {"train": TRAIN, "valid": VAL, "test": TEST}.items():
        write_csv(folder / f"{name}.csv", rows)
    task = load(folder)
    assert list(task.labels) == ["bad", "good"]
    assert [list(rows.texts) for rows in task.splits.values()] == [
        [text for text, _ in rows] for rows in (TRAIN, VAL, TEST)
    ]
    assert task.train.source(16) == "reviews[train]:17"
    assert task.val.sources() == ["reviews[validation]:1", "reviews[validation]:2"]
    assert task.warnings == []


def test_a_local_folder_of_parquet_files(folder: Path) -> None:
    for name, rows in {"train": TRAIN, "test": TEST}.items():
        texts, labels = zip(*rows, strict=True)
        pq.write_table(
            pa.table({"body": texts, "stars": [name == "good" for name in labels]}), folder / f"{name}.parquet"
        )
    task = load(folder, text_column="body", label_column="stars")
    assert list(task.labels) == ["false", "true"]
    assert sizes(task) == [18, 2, 2]
    assert task.warnings == [
        "sentiment: of the 20 rows of reviews[train], 2 for val are taken (data.split) and not trained on, because the "
        "data set has no split for them: data.tasks.sentiment.splits.val=<split>"
    ]


def test_a_saved_data_set_gives_its_classes_in_their_order(folder: Path) -> None:
    splits = {"train": of_classes([*TRAIN, ("so so", "mixed")]), "dev": of_classes(VAL), "test": of_classes(TEST)}
    DatasetDict(splits).save_to_disk(str(folder))
    task = load(folder, text_column="sentence")
    assert list(task.labels) == ["good", "bad", "mixed"]
    assert list(task.val.labels) == ["good", "bad"]
    assert task.test.sources() == ["reviews[test]:1", "reviews[test]:2"]


def test_a_single_saved_split_is_divided_as_a_file_is(folder: Path, tmp_path: Path) -> None:
    of_classes(TRAIN).save_to_disk(str(folder))
    write_csv(tmp_path / "reviews.csv", TRAIN)
    task = load(folder, text_column="sentence", splits={"train": "train"})
    alike = load_task(TaskSpec("sentiment", path=tmp_path / "reviews.csv"), seed=0)
    assert [list(rows.texts) for rows in task.splits.values()] == [list(rows.texts) for rows in alike.splits.values()]
    unused = "sentiment: classes without a training row, which the model will not predict: 'mixed'."
    assert unused in task.warnings


def test_own_labels_replace_the_classes(folder: Path) -> None:
    of_classes(TRAIN).save_to_disk(str(folder))
    assert list(load(folder, text_column="sentence", labels=("bad", "good")).labels) == ["bad", "good"]


def test_a_usual_split_without_labels_is_not_used(folder: Path) -> None:
    hidden = of_classes([(text, -1) for text, _ in TEST])
    DatasetDict({"train": of_classes(TRAIN), "validation": of_classes(VAL), "test": hidden}).save_to_disk(str(folder))
    task = load(folder, text_column="sentence")
    assert sizes(task) == [18, 2, 2]
    assert task.warnings[0] == ("sentiment: no row of reviews[test] has a label in the column 'label': it is not used.")
    assert refusal(folder, text_column="sentence", splits={"test": "test"}) == (
        "Data: 1 problem\n"
        f"  {folder}[test]\n"
        "      found:    no label in the column 'label' of 2 rows\n"
        "      expected: at least one row with a label\n"
        "      repair:   name the column that holds the labels with data.tasks.sentiment.label_column="
    )


def test_splits_by_name(folder: Path) -> None:
    DatasetDict({"part_1": of_classes(TRAIN), "part_2": of_classes(VAL)}).save_to_disk(str(folder))
    task = load(folder, text_column="sentence", splits={"train": "part_1", "val": "part_2", "test": None})
    assert sizes(task) == [18, 2, 2]
    assert task.val.source(0) == "reviews[part_2]:1"
    assert refusal(folder, text_column="sentence", splits={"test": "part_3"}) == (
        "Data: 2 problems\n"
        "  data.tasks.sentiment.splits.train\n"
        f"      found:    none, and {folder} has no 'train'\n"
        "      expected: a split to train on: part_1, part_2\n"
        "      repair:   give data.tasks.sentiment.splits.train=part_1\n"
        "  data.tasks.sentiment.splits.test\n"
        "      found:    'part_3'\n"
        "      expected: part_1, part_2\n"
        "      repair:   did you mean part_2?"
    )


def test_columns_of_one_data_set_are_split_alike(folder: Path) -> None:
    columns = {"text": [text for text, _ in TRAIN], "label": [name for _, name in TRAIN]}
    Dataset.from_dict({**columns, "at": [int(text.split()[-1]) % 2 for text in columns["text"]]}).save_to_disk(
        str(folder)
    )
    tasks = [load(folder, label_column=name, split_with=("at", "label")) for name in ("at", "label")]
    assert list(tasks[0].test.texts) == list(tasks[1].test.texts)


def test_configurations(folder: Path) -> None:
    for name, rows in {"short": TRAIN, "long": [*TRAIN, ("long film", "good")]}.items():
        (folder / name).mkdir()
        write_csv(folder / name / "train.csv", rows)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in ("short", "long"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    task = load(folder, config="long")
    assert sum(sizes(task)) == 21
    assert task.train.source(0) == "reviews[long,train]:1"
    text = refusal(folder)
    assert (
        "  data.tasks.sentiment.config\n      found:    nothing (Config name is missing. Please pick one among" in text
    )
    assert "['short', 'long']" in text
    assert "found:    'longer' (BuilderConfig 'longer' not found. Available: ['short', 'long'])" in refusal(
        folder, config="longer"
    )


# What is wrong with rows.


def test_rows_are_checked_as_those_of_files(folder: Path) -> None:
    rows = [*TRAIN, ("", "good"), ("fine", 7)]
    table = pa.table(
        {
            "sentence": [text for text, _ in rows],
            "label": [{"good": 0, "bad": 1}.get(str(name), name) for _, name in rows],
        }
    )
    Dataset(table, info=datasets.DatasetInfo(features=CLASSES)).save_to_disk(str(folder))
    assert refusal(folder, text_column="sentence") == (
        "Data: 1 problem\n"
        f"  {folder}[train]:21\n"
        "      found:    an empty text\n"
        "      expected: a text with at least one visible character\n"
        "      repair:   fill in the text, or remove the row"
    )


def test_rows_without_a_label(folder: Path) -> None:
    of_classes([*TRAIN, ("none", -1)]).save_to_disk(str(folder))
    assert load(folder, text_column="sentence").warnings[0] == (
        "sentiment: 1 of 21 rows of reviews[train] have no label in the column 'label' and are left out. "
        "data.tasks.sentiment.missing=error refuses such rows."
    )
    assert f"  {folder}[train]:21\n      found:    a label that is null\n" in refusal(
        folder, text_column="sentence", missing="error"
    )


def test_columns_are_checked(folder: Path) -> None:
    Dataset.from_dict({"sentence": ["a"], "label": [[1, 2]]}).save_to_disk(str(folder))
    assert "did you mean sentence? set data.tasks.sentiment.text_column=sentence" in refusal(
        folder, text_column="sentense"
    )
    assert "column 'label' of type list<" in refusal(folder, text_column="sentence")
    assert refusal(folder, text_column="body").endswith(
        "repair:   name the column that holds the texts with data.tasks.sentiment.text_column="
    )


def test_texts_in_two_splits_are_warned_about(folder: Path) -> None:
    DatasetDict({"train": of_classes(TRAIN), "test": of_classes(TRAIN[:1])}).save_to_disk(str(folder))
    warnings = load(folder, text_column="sentence", fractions=(1.0, 0.0, 0.0)).warnings
    assert any("reviews[test]:1 as reviews[train]:1" in text for text in warnings)


# The rows are read once, and again when they change.


def test_changed_rows_have_another_content_and_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path / "cache"))
    contents = []
    for text in ("first", "other"):
        shutil.rmtree(folder)
        of_classes([*TRAIN, (text, "good")]).save_to_disk(str(folder))
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**state, "_fingerprint": "the same"}))
        task = load_task(TaskSpec("t", dataset=DatasetSpec(str(folder)), text_column="sentence"), seed=0)
        contents.append(task.train.content())
    assert len(set(contents)) == len(list((tmp_path / "cache" / "examples").iterdir())) == 2


def test_a_changed_file_of_a_folder_is_read_again(folder: Path) -> None:
    for text in ("first", "other"):
        write_csv(folder / "train.csv", [*TRAIN, (text, "good")])
        assert text in {text for rows in load(folder).splits.values() for text in rows.texts}


# What cannot be loaded.


def test_names_that_are_no_data_set(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "a.csv"
    write_csv(file, TRAIN)
    assert refusal(file) == (
        "Data: 1 problem\n"
        "  data.tasks.sentiment.dataset\n"
        f"      found:    {file}, a file\n"
        "      expected: a data set's id on the hub, or a folder\n"
        "      repair:   a file goes to data.tasks.sentiment.path, one for each split to data.tasks.sentiment.train, "
        "val and test"
    )
    assert f"found:    {tmp_path}/nothing, and no such folder" in refusal(tmp_path / "nothing")
    assert f"found:    {folder}, which cannot be loaded (EmptyDatasetError: " in refusal(folder)


PLACES = ["{outside}", "../private.csv", "a/../../private.csv", "file://{outside}", "local://{outside}"]
PLACES += ["https://127.0.0.1:9/private.csv", "dir://private.csv::file://{outside.parent}"]
PLACES += ["reference://x.csv::{outside.parent}/reviews/refs.json"]


@pytest.mark.parametrize("place", PLACES)
def test_a_data_set_cannot_name_files_outside_its_folder(folder: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "private.csv"
    write_csv(outside, TRAIN)
    (folder / "a").mkdir()
    (folder / "refs.json").write_text(json.dumps({"x.csv": [str(outside)]}))
    name = place.format(outside=outside)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: '{name}'\n---\n")
    message = refusal(folder)
    assert f"{KEY}.dataset" in message
    assert f"{folder}, which names " in message
    assert message.endswith("expected: a data set that names files of its own only")
    write_csv(folder / "own.csv", TRAIN)
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: 'own.csv'\n---\n")
    assert sum(sizes(load(folder))) == len(TRAIN)


def test_a_data_set_is_not_looked_up_at_an_address(folder: Path, tmp_path: Path) -> None:
    """`reference://` of fsspec up to 2025 ran templates while the data set was only looked for."""
    begun = tmp_path / "begun"
    template = f"{{{{ cycler.__init__.__globals__.os.mkdir('{begun}') }}}}x.csv"
    key = {"key": template, "url": "a", "dimensions": {"i": {"stop": 1}}}
    (folder / "refs.json").write_text(json.dumps({"version": 1, "gen": [key]}))
    name = f"reference://x.csv::{folder}/refs.json"
    for file, mark in (("README.md", "---\n"), (".huggingface.yaml", "")):
        (folder / file).write_text(f"{mark}configs:\n- config_name: default\n  data_files: '{name}'\n{mark}")
        assert f"which names {name}" in refusal(folder)
        assert not begun.exists()
        (folder / file).unlink()


@pytest.mark.parametrize("absolute", [False, True])
def test_a_saved_data_set_cannot_name_files_outside_its_folder(folder: Path, tmp_path: Path, absolute: bool) -> None:
    of_classes(TRAIN).save_to_disk(str(folder))
    (arrow,) = folder.glob("*.arrow")
    arrow.rename(tmp_path / "private.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": f"{tmp_path if absolute else '..'}/private.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    assert "private.arrow\n      expected: a data set that names files of its own only" in refusal(folder)


def test_a_saved_data_set_cannot_name_splits_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    of_classes(TRAIN).save_to_disk(str(tmp_path / "private"))
    (folder / "dataset_dict.json").write_text('{"splits": ["../private"]}')
    assert "a data set that names files of its own only" in refusal(folder)


def test_a_folder_has_no_revision(folder: Path) -> None:
    of_classes(TRAIN).save_to_disk(str(folder))
    assert "  data.tasks.sentiment.revision\n      found:    'main'\n" in refusal(folder, revision="main")
    assert "  data.tasks.sentiment.config\n      found:    'long'\n" in refusal(folder, config="long")


def test_a_damaged_data_set(folder: Path) -> None:
    of_classes(TRAIN).save_to_disk(str(folder))
    (arrow,) = folder.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:40])
    assert f"found:    {folder}, which cannot be loaded (Arrow" in refusal(folder)


# The hub.


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub's address that refuses: the port is bound, nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        yield address


def unreachable(cache: Path, reason: str) -> str:
    return (
        "Data: 1 problem\n"
        "  data.tasks.sentiment.dataset\n"
        f"      found:    owner/reviews is not in the cache {cache}, and {reason}\n"
        "      expected: a data set in the cache, or a hub that can be reached\n"
        "      repair:   data.tasks.sentiment.dataset=<folder> with a copy of it, made on a machine with access to the "
        "hub by\n"
        "        hf download owner/reviews --repo-type dataset --local-dir <folder>"
    )


def test_an_unreachable_hub(tmp_path: Path, closed_port: str) -> None:
    reason = f"{closed_port} cannot be reached (ConnectError: [Errno 111] Connection refused)"
    assert refusal("owner/reviews") == unreachable(tmp_path / "hf", reason)
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 1.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        text = refusal("owner/reviews")
    assert text.startswith(unreachable(tmp_path / "hf", f"{address} cannot be reached (").split(" (")[0])


def test_the_hub_is_not_asked_offline(tmp_path: Path) -> None:
    assert refusal("owner/reviews") == unreachable(tmp_path / "hf", "HF_HUB_OFFLINE is set")


def test_the_cache_of_the_hub_is_used_without_it(tmp_path: Path, folder: Path, closed_port: str) -> None:
    write_csv(folder / "train.csv", TRAIN)
    load(folder)
    (made,) = (tmp_path / "hf").rglob("0.0.0/*/")
    shutil.copytree(made, tmp_path / "hf" / "owner___reviews" / "default" / "0.0.0" / "abc123")
    assert load("owner/reviews", revision="abc123").train.source(0) == "reviews[train]:1"
    assert (
        f"found:    'def', while the cache {tmp_path / 'hf'} has abc123, and {closed_port} cannot be reached ("
        in refusal("owner/reviews", revision="def")
    )


@pytest.mark.parametrize(
    ("error", "key", "found"),
    [
        (RepositoryNotFoundError, "dataset", "{hub} shows no data set owner/reviews: there is none, or it is private"),
        (RevisionNotFoundError, "revision", "'v9'"),
    ],
)
def test_what_the_hub_does_not_have(
    monkeypatch: pytest.MonkeyPatch, closed_port: str, error: type[Exception], key: str, found: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error.__new__(error)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    text = refusal("owner/reviews", revision="v9")
    assert f"  data.tasks.sentiment.{key}\n      found:    {found.format(hub=closed_port)}" in text

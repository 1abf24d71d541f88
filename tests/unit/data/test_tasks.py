"""From the files of a task to its three splits: what is refused, and what is warned of, with the whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtl.base.errors import DataError
from mtl.data.tasks import TaskSpec, load_task, load_tasks

Rows = Sequence[tuple[str, str]]

TRAIN: Rows = [("good", "pos"), ("bad", "neg"), ("fine", "pos"), ("dull", "neg")]
VAL: Rows = [("nice", "pos"), ("ugly", "neg")]
TEST: Rows = [("great", "pos"), ("awful", "neg")]


def csv_file(path: Path, rows: Rows) -> Path:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


def many(count: int, *labels: str) -> Rows:
    return [(f"text {label} {i}", label) for i in range(count) for label in labels]


def spec_of(folder: Path, name: str = "sentiment", **given: Any) -> TaskSpec:
    """Return a task over files, which are written where rows are given in place of a file."""
    files: dict[str, Any] = {
        split: csv_file(folder / f"{split}.csv", given.pop(split))
        for split in ("train", "val", "test", "path")
        if isinstance(given.get(split), list)
    }
    return TaskSpec(name, **files, **given)


def refusal(*specs: TaskSpec) -> str:
    """Return the text of the error that loading raises, the folder of the files left out."""
    with pytest.raises(DataError) as caught:
        load_tasks(specs, seed=1)
    folder = next(Path(file).parent for spec in specs for file in spec.files.values())
    return str(caught.value).replace(f"{folder}/", "")


def test_given_files_are_used_as_given(tmp_path: Path) -> None:
    task = load_task(spec_of(tmp_path, train=TRAIN, val=VAL, test=TEST), seed=1)
    assert task.name == "sentiment"
    assert task.labels.names == ("neg", "pos")
    assert {split: list(examples.texts) for split, examples in task.splits.items()} == {
        "train": ["good", "bad", "fine", "dull"],
        "val": ["nice", "ugly"],
        "test": ["great", "awful"],
    }
    assert task.warnings == []


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"path": many(50, "pos", "neg")}, {"train": 80, "val": 10, "test": 10}),
        ({"train": many(50, "pos", "neg")}, {"train": 80, "val": 10, "test": 10}),
        ({"train": many(45, "pos", "neg"), "test": TEST}, {"train": 80, "val": 10, "test": 2}),
        ({"train": many(45, "pos", "neg"), "val": VAL}, {"train": 80, "val": 2, "test": 10}),
        ({"path": many(50, "pos", "neg"), "fractions": (0.5, 0.25, 0.25)}, {"train": 50, "val": 25, "test": 25}),
        ({"path": many(50, "pos", "neg"), "fractions": (0.9, 0.1, 0.0)}, {"train": 90, "val": 10, "test": 0}),
        ({"train": TRAIN, "val": VAL, "fractions": (1.0, 0.0, 0.0)}, {"train": 4, "val": 2, "test": 0}),
    ],
)
def test_missing_splits_come_from_the_training_file(tmp_path: Path, given: dict[str, Any], sizes: Any) -> None:
    task = load_task(spec_of(tmp_path, **given), seed=1)
    assert {split: len(examples) for split, examples in task.splits.items()} == sizes


def test_rows_that_are_taken_from_the_training_file_are_announced(tmp_path: Path) -> None:
    rows = many(50, "pos", "neg")
    assert load_task(spec_of(tmp_path, path=rows), seed=1).warnings == []  # the file is given to be split
    assert load_task(spec_of(tmp_path, train=rows), seed=1).warnings == [
        "sentiment: of the 100 rows of train.csv, 10 for val and 10 for test are taken (data.split) and not trained "
        "on, because no file is given for them: data.tasks.sentiment.val=<file> data.tasks.sentiment.test=<file>"
    ]
    assert load_task(spec_of(tmp_path, train=rows, val=VAL, fractions=(0.8, 0.1, 0.1)), seed=1).warnings == [
        "sentiment: of the 100 rows of train.csv, 11 for test are taken (data.split) and not trained on, because no "
        "file is given for them: data.tasks.sentiment.test=<file>"
    ]


# One table with a column for each task.


def table(path: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    path.write_text("text,topic,mood\n" + "".join(f"{','.join(row)}\n" for row in rows))
    return path


def sparse(count: int) -> list[tuple[str, str, str]]:
    """Return rows of which every third has no topic, and every fourth no mood; the topic `rare` stands four times."""
    topics = ["rare" if number < 8 else f"topic {number % 5}" for number in range(count)]
    moods = ["good" if number % 7 < 3 else "bad" for number in range(count)]
    return [
        (f"text {number}", topics[number] if number % 3 else "", moods[number] if number % 4 else " ")
        for number in range(count)
    ]


def of_table(file: Path, *columns: str, **given: Any) -> list[TaskSpec]:
    together = tuple(sorted(columns))
    return [TaskSpec(name, path=file, label_column=name, split_with=together, **given) for name in columns]


def test_rows_without_a_label_are_no_rows_of_the_task(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", sparse(240))
    tasks = load_tasks(of_table(file, "topic", "mood"), seed=1)
    rows = {name: sum(map(len, task.splits.values())) for name, task in tasks.items()}
    assert rows == {"topic": 160, "mood": 180}
    assert {name: task.warnings for name, task in tasks.items()} == {
        name: [
            f"{name}: {count} of 240 rows of t.csv have no label in the column '{name}' and are left out. "
            f"data.tasks.{name}.missing=error refuses such rows."
        ]
        for name, count in {"topic": 80, "mood": 60}.items()
    }


def test_rows_without_a_label_can_be_refused(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", [("a", "x", "good"), ("b", "y", ""), ("c", "", "bad")])
    assert refusal(*of_table(file, "topic", "mood", missing="error")).splitlines()[:4] == [
        "Data: 2 problems",
        "  t.csv:4",
        "      found:    an empty label",
        "      expected: a label with at least one visible character",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_tasks_of_one_table_are_split_alike(tmp_path: Path, seed: int) -> None:
    file = table(tmp_path / "t.csv", sparse(240))
    tasks = load_tasks(of_table(file, "topic", "mood"), seed)
    of_text = [{text: split for split, rows in task.splits.items() for text in rows.texts} for task in tasks.values()]
    both = of_text[0].keys() & of_text[1].keys()
    assert len(both) == 120
    assert all(of_text[0][text] == of_text[1][text] for text in both)
    for name, task in tasks.items():
        assert set(task.train.distinct_labels()) == set(task.labels), name
        sizes = {split: len(rows) / sum(map(len, task.splits.values())) for split, rows in task.splits.items()}
        assert sizes == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.035)
    alone = load_task(of_table(file, "topic", "mood")[1], seed)
    assert [rows.sources() for rows in alone.splits.values()] == [
        rows.sources() for rows in tasks["mood"].splits.values()
    ]


def test_a_column_to_split_with_that_is_not_there(tmp_path: Path) -> None:
    file = table(tmp_path / "t.csv", sparse(40))
    spec = TaskSpec("mood", path=file, label_column="mood", split_with=("mood", "topik"))
    assert refusal(spec) == (
        "Data: 1 problem\n"
        "  data.tasks.mood.split_with\n"
        "      found:    the column 'topik', which cannot be read (t.csv:1: columns 'text', 'topic', 'mood')\n"
        "      expected: label columns of t.csv"
    )
    wrong = replace(spec, name="topik", label_column="topik")
    assert refusal(spec, wrong).startswith("Data: 1 problem\n  t.csv:1\n")


def test_texts_that_another_task_trains_on(tmp_path: Path) -> None:
    train = [*many(10, "pos", "neg"), ("NICE", "pos")]
    other = csv_file(tmp_path / "other.csv", [*train, ("great", "pos")])
    tasks = load_tasks(
        [
            spec_of(tmp_path, train=TRAIN, val=VAL, test=TEST),
            TaskSpec("again", train=other, val=tmp_path / "val.csv", test=tmp_path / "test.csv"),
        ],
        seed=1,
    )
    assert tasks["sentiment"].warnings == [
        f"sentiment: 1 of 2 rows in {split} have a text that again trains on (case and white space aside): "
        f"{split}.csv:2. Where the encoder is trained, the scores on {split} will be too good: give the same texts the "
        "same split, in files for train, val and test, or in one file with a label column for each task, which is "
        "split for all of them alike."
        for split in ("val", "test")
    ]


def test_splits_of_one_file_share_nothing_and_the_seed_decides(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, path=many(50, "pos", "neg"))
    first, again, other = (load_task(spec, seed) for seed in (1, 1, 2))
    sources = [source for examples in first.splits.values() for source in examples.sources()]
    assert len(set(sources)) == len(sources) == 100
    assert first.test.sources() == again.test.sources() != other.test.sources()


def test_declared_labels_keep_their_order(tmp_path: Path) -> None:
    task = load_task(spec_of(tmp_path, train=TRAIN, val=VAL, test=TEST, labels=("pos", "neg")), seed=1)
    assert task.labels.names == ("pos", "neg")
    assert task.labels.ids(task.train).tolist() == [0, 1, 0, 1]


def test_declared_labels_that_miss_one_or_lack_rows(tmp_path: Path) -> None:
    train = [*TRAIN, ("so so", "neutrl"), ("hm", "neutrl")]
    val = [*VAL, ("odd", "x")]
    spec = spec_of(tmp_path, train=train, val=val, test=TEST, labels=("neg", "neutral", "pos"))
    assert refusal(spec) == (
        "Data: 3 problems\n"
        "  train.csv\n"
        "      found:    no row with the label 'neutral'\n"
        "      expected: training rows for each of data.tasks.sentiment.labels\n"
        "      repair:   add rows with it, or take it out of data.tasks.sentiment.labels\n"
        "  train.csv:6\n"
        "      found:    the label 'neutrl' (2 rows, the first here)\n"
        "      expected: one of data.tasks.sentiment.labels: neg, neutral, pos\n"
        "      repair:   did you mean neutral? correct it, or add it to data.tasks.sentiment.labels\n"
        "  val.csv:4\n"
        "      found:    the label 'x' (1 row)\n"
        "      expected: one of data.tasks.sentiment.labels: neg, neutral, pos\n"
        "      repair:   correct it, or add it to data.tasks.sentiment.labels"
    )


def test_labels_that_training_lacks(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, train=TRAIN, val=[("nice", "Pos"), ("ugly", "neg")], test=[*TEST, ("meh", "neutral")])
    assert refusal(spec) == (
        "Data: 2 problems\n"
        "  val.csv:2\n"
        "      found:    the label 'Pos' (1 row)\n"
        "      expected: a label that training rows have: neg, pos\n"
        "      repair:   did you mean pos? correct it, or add rows with it to train.csv\n"
        "  test.csv:4\n"
        "      found:    the label 'neutral' (1 row)\n"
        "      expected: a label that training rows have: neg, pos\n"
        "      repair:   correct it, or add rows with it to train.csv"
    )


def test_a_single_label(tmp_path: Path) -> None:
    assert refusal(spec_of(tmp_path, path=many(20, "pos"))) == (
        "Data: 1 problem\n"
        "  path.csv\n"
        "      found:    a single label, 'pos', in all of 20 rows\n"
        "      expected: at least two labels to tell apart\n"
        "      repair:   add rows with other labels, or name another column with data.tasks.sentiment.label_column="
    )


def test_many_unknown_labels_are_counted(tmp_path: Path) -> None:
    text = refusal(spec_of(tmp_path, train=TRAIN, val=VAL, test=[(f"t{i}", f"label{i}") for i in range(300)]))
    assert text.startswith("Data: 21 problems\n  test.csv:2\n      found:    the label 'label0' (1 row)\n")
    assert "found:    280 more problems in this file\n" in text


def test_too_few_rows_to_split(tmp_path: Path) -> None:
    assert refusal(spec_of(tmp_path, path=[("good", "pos"), ("Good", "pos"), ("bad", "neg"), ("ugly", "neg")])) == (
        "Data: 1 problem\n"
        "  path.csv\n"
        "      found:    4 rows with 3 distinct texts for 2 labels\n"
        "      expected: at least 4 distinct texts: one per label to train on, and one each for val and test\n"
        "      repair:   add rows, or give files of their own: "
        "data.tasks.sentiment.val=<file> data.tasks.sentiment.test=<file>"
    )


def test_the_problems_of_all_files_of_all_tasks_come_together(tmp_path: Path) -> None:
    bad = csv_file(tmp_path / "bad.csv", [("", "pos"), ("fine", "neg")])
    other = tmp_path / "other.csv"
    other.write_text("text,topic\na,b\n")
    text = refusal(
        TaskSpec("sentiment", train=bad, val=tmp_path / "missing.csv"),
        TaskSpec("topic", path=other),
        TaskSpec("again", path=bad),
    )
    assert text.replace(str(tmp_path), "<folder>") == (
        "Data: 3 problems\n"
        "  bad.csv:2\n"
        "      found:    an empty text\n"
        "      expected: a text with at least one visible character\n"
        "      repair:   fill in the text, or remove the row\n"
        "  missing.csv\n"
        "      found:    no such file; <folder> has bad.csv, other.csv\n"
        "      expected: a file\n"
        "      repair:   check the path; a relative one starts at the working folder\n"
        "  other.csv:1\n"
        "      found:    columns 'text', 'topic'\n"
        "      expected: a column 'label'\n"
        "      repair:   name the column that holds the labels with data.tasks.topic.label_column=, "
        "or add a header line"
    )


def test_tasks_keep_their_order(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, path=many(20, "pos", "neg"))
    tasks = load_tasks([TaskSpec("b", path=spec.path), TaskSpec("a", path=spec.path)], seed=1)
    assert list(tasks) == ["b", "a"]
    assert tasks["a"].test.sources() == tasks["b"].test.sources()


# Warnings.


def test_texts_on_both_sides_of_a_split(tmp_path: Path) -> None:
    train = [*TRAIN, *((f"text {i}", "pos") for i in range(6))]
    test = [*TEST, ("GOOD ", "pos"), *((f"Text  {i}", "pos") for i in range(4))]
    task = load_task(spec_of(tmp_path, train=train, val=[*VAL, ("Awful", "neg")], test=test), seed=1)
    assert task.warnings == [
        "sentiment: 5 of 7 rows in test have a text that train has too (case and white space aside): "
        "test.csv:4 as train.csv:2; test.csv:5 as train.csv:6; test.csv:6 as train.csv:7 (+2 more). "
        "The scores on test will be too good: remove these rows from one of the two.",
        "sentiment: 1 of 7 rows in test have a text that val has too (case and white space aside): "
        "test.csv:3 as val.csv:4. "
        "The scores on test will be too good: remove these rows from one of the two.",
    ]


def test_texts_with_different_labels_in_train(tmp_path: Path) -> None:
    train = [*TRAIN, ("Bad", "pos"), ("bad", "neg"), ("same", "pos"), ("SAME", "pos"), ("Good", "neg")]
    task = load_task(spec_of(tmp_path, train=train, val=VAL, test=TEST), seed=1)
    assert task.warnings == [
        "sentiment: 2 texts in train with different labels (case and white space aside): "
        "train.csv:2 'pos' and train.csv:10 'neg'; train.csv:6 'pos' and train.csv:7 'neg'. "
        "Decide for one label each, or remove them."
    ]


@pytest.mark.parametrize(("other", "shown"), [("Pos", "Pos"), ("pos\u200b", "pos\\u200b"), ("ｐos", "\\uff50os")])
def test_labels_that_a_reader_takes_for_the_same(tmp_path: Path, other: str, shown: str) -> None:
    train = [*TRAIN, ("ok", other)]
    task = load_task(spec_of(tmp_path, train=train, val=[*VAL, ("a", other)], test=[*TEST, ("b", other)]), seed=1)
    names = ", ".join(f"'{name}'" for name in sorted([shown, "pos"], key=lambda name: name.replace("\\", "~")))
    assert task.warnings == [
        f"sentiment: the labels {names} differ only in case, white space or Unicode form. "
        "Write them alike if they mean the same."
    ]


def test_labels_without_a_row_to_measure_by(tmp_path: Path) -> None:
    train = [*TRAIN, ("meh", "neutral")]
    task = load_task(spec_of(tmp_path, train=train, val=[("nice", "pos")], test=TEST), seed=1)
    assert task.warnings == [
        "sentiment: no row in val with the labels 'neg', 'neutral': nothing is measured there.",
        "sentiment: no row in test with the label 'neutral': nothing is measured there.",
    ]


def test_a_share_of_the_training_rows_keeps_every_label_and_leaves_the_other_splits_alone(tmp_path: Path) -> None:
    rows = [*many(40, "usual"), *many(10, "rare"), *many(1, "single")]
    labels = ("usual", "rare", "single", "pos", "neg")
    spec = spec_of(tmp_path, train=[*rows, *TRAIN], val=VAL, test=TEST, labels=labels)
    whole, half, tenth = (load_task(replace(spec, train_share=share), seed=3) for share in (1.0, 0.5, 0.1))
    counts = {label: list(half.train.labels).count(label) for label in half.labels.names}
    assert counts == {"usual": 20, "rare": 5, "single": 1, "pos": 1, "neg": 1}
    assert set(tenth.train.texts) < set(half.train.texts) < set(whole.train.texts)
    assert set(tenth.train.labels) == set(whole.train.labels)
    assert [list(part.texts) for part in (tenth.val, tenth.test)] == [
        list(part.texts) for part in (whole.val, whole.test)
    ]


def test_another_seed_draws_another_share_of_the_training_rows(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, train=many(50, "pos", "neg"), val=VAL, test=TEST, train_share=0.2)
    first, again, other = (load_task(spec, seed=seed).train for seed in (1, 1, 2))
    assert list(first.texts) == list(again.texts)
    assert list(first.texts) != list(other.texts)
    assert len(first) == len(other) == 20


def test_a_few_rows_of_each_split(tmp_path: Path) -> None:
    """A sample, the same for the same seed, with some of each label to train on."""
    rare = [*many(200, "pos", "neg"), ("the only one", "odd")]
    spec = spec_of(tmp_path, train=rare, val=many(60, "pos", "neg"), test=TEST)
    some = replace(spec, most_rows={"train": 20, "val": 30, "test": 30})
    task, whole = load_task(some, seed=1), load_task(spec, seed=1)
    assert {split: len(rows) for split, rows in task.splits.items()} == {"train": 20, "val": 30, "test": 2}
    assert task.labels.names == whole.labels.names == ("neg", "odd", "pos")
    assert set(task.train.labels) == {"neg", "odd", "pos"}
    for split, rows in task.splits.items():
        assert set(rows.texts) <= set(whole.splits[split].texts)
    assert list(load_task(some, seed=1).val.texts) == list(task.val.texts)
    assert list(load_task(some, seed=2).val.texts) != list(task.val.texts)
    assert set(task.val.labels) == {"neg", "pos"}

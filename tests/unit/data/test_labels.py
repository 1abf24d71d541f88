"""The order of labels, and their class ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl.base.errors import DataError
from mtl.data.examples import Examples, read_examples
from mtl.data.labels import LabelSet
from mtl.data.problems import ProblemLog


def examples_of(folder: Path, *labels: str) -> Examples:
    path = folder / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels)))
    return read_examples(path)


def test_labels_found_are_sorted(tmp_path: Path) -> None:
    labels = LabelSet.found_in(examples_of(tmp_path, "pos", "neg", "pos", "mixed"))
    assert labels.names == tuple(labels) == ("mixed", "neg", "pos")
    assert len(labels) == 3


@pytest.mark.parametrize(
    ("found", "expected"),
    [(["10", "2", "1"], ("1", "2", "10")), (["10", "2", "b"], ("10", "2", "b")), (["1", "-1", "0"], ("-1", "0", "1"))],
)
def test_whole_numbers_are_sorted_as_numbers(tmp_path: Path, found: list[str], expected: tuple[str, ...]) -> None:
    assert LabelSet.found_in(examples_of(tmp_path, *found)).names == expected


def test_ids(tmp_path: Path) -> None:
    examples = examples_of(tmp_path, "pos", "neg", "pos")
    ids = LabelSet(("pos", "other", "neg")).ids(examples)
    assert ids.dtype == np.int64
    assert ids.tolist() == [0, 2, 0]
    assert LabelSet(("neg", "pos")).ids(examples.select([1, 0])).tolist() == [0, 1]


def test_unknown_labels_are_named_once_each_by_line(tmp_path: Path) -> None:
    examples = examples_of(tmp_path, "pos", "postive", "odd", "neg", "postive")
    labels, log = LabelSet(("negative", "positive", "neg", "pos")), ProblemLog(examples.path)
    assert labels.ids(examples).tolist() == [3, -1, -1, 2, -1]
    labels.note_unknown(examples, log)
    with pytest.raises(DataError) as caught:
        log.raise_if_any()
    assert str(caught.value) == (
        "Data: 2 problems\n"
        f"  {examples.path}:3\n"
        "      found:    the label 'postive' (2 rows, the first here)\n"
        "      expected: one of negative, positive, neg, pos\n"
        "      repair:   did you mean positive?\n"
        f"  {examples.path}:4\n"
        "      found:    the label 'odd' (1 row)\n"
        "      expected: one of negative, positive, neg, pos"
    )


def test_unknown_labels_of_rows_that_are_not_selected_do_no_harm(tmp_path: Path) -> None:
    examples = examples_of(tmp_path, "odd", "pos").select([1])
    log = ProblemLog(examples.path)
    LabelSet(("pos",)).note_unknown(examples, log)
    assert not log

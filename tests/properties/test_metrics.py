"""Metrics of any predictions equal scikit-learn's, and do not depend on the order of rows or classes."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from mtl.base.schema import read_record
from mtl.evaluation.metrics import TaskMetrics, overall_scores, task_report
from mtl.evaluation.records import TaskReport
from mtl.evaluation.run_metrics import plain

Rows = tuple[int, list[tuple[int, int]]]


@st.composite
def labelled_rows(draw: st.DrawFn) -> Rows:
    """Draw a number of classes, then rows of (true class, predicted class); many classes stay without rows."""
    classes = draw(st.integers(2, 9))
    index = st.integers(0, classes - 1)
    return classes, draw(st.lists(st.tuples(index, index), min_size=1, max_size=40))


def report_of(classes: int, rows: list[tuple[int, int]]) -> TaskReport:
    truth, predicted = torch.tensor(rows).T
    metrics = TaskMetrics(classes)
    metrics.update(torch.nn.functional.one_hot(predicted, classes).float(), truth)
    return task_report(metrics.compute()["confusion"], [str(index) for index in range(classes)])


@given(labelled_rows())
@settings(deadline=None)
def test_report_equals_sklearn(drawn: Rows) -> None:
    classes, rows = drawn
    truth, predicted = np.array(rows).T
    labels = list(range(classes))
    report = report_of(classes, rows)
    for average in ("macro", "weighted"):
        expected = precision_recall_fscore_support(truth, predicted, labels=labels, average=average, zero_division=0)
        found = [getattr(report, f"{average}_{name}") for name in ("precision", "recall", "f1")]
        assert found == pytest.approx(list(expected[:3]))
    columns = precision_recall_fscore_support(truth, predicted, labels=labels, average=None, zero_division=0)
    found = [[getattr(scores, name) for scores in report.per_class.values()] for name in ("precision", "recall", "f1")]
    assert np.array(found) == pytest.approx(np.array(columns[:3]))
    assert [scores.support for scores in report.per_class.values()] == columns[3].tolist()
    assert report.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert report.confusion == confusion_matrix(truth, predicted, labels=labels).tolist()


@given(labelled_rows(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_rows_and_the_cuts_between_batches_change_nothing(drawn: Rows, random: Random) -> None:
    classes, rows = drawn
    shuffled = list(rows)
    random.shuffle(shuffled)
    metrics = TaskMetrics(classes)
    for truth, predicted in shuffled:
        metrics.update(torch.nn.functional.one_hot(torch.tensor([predicted]), classes), torch.tensor([truth]))
    assert task_report(metrics.compute()["confusion"], [str(index) for index in range(classes)]) == report_of(
        classes, rows
    )


@given(labelled_rows(), st.data())
@settings(deadline=None)
def test_renamed_classes_keep_their_figures(drawn: Rows, data: st.DataObject) -> None:
    classes, rows = drawn
    order = data.draw(st.permutations(range(classes)))
    confusion = torch.tensor(report_of(classes, rows).confusion)
    labels = [str(index) for index in range(classes)]
    report = task_report(confusion, labels)
    permuted = task_report(confusion[order][:, order], [labels[index] for index in order])
    assert permuted.per_class == report.per_class
    for name, value in overall_scores(confusion).items():
        assert getattr(permuted, name) == pytest.approx(value.item())


@given(labelled_rows())
@settings(deadline=None)
def test_figures_agree_with_each_other(drawn: Rows) -> None:
    classes, rows = drawn
    report = report_of(classes, rows)
    assert report.rows == len(rows)
    assert report.weighted_recall == pytest.approx(report.accuracy)
    assert 0 <= report.macro_f1 <= 1
    assert report.majority_accuracy >= 1 / classes - 1e-12
    assert read_record(TaskReport, plain(report), "") == report

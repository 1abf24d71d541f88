"""Metrics equal scikit-learn's, on any way of counting: in batches, after a reset, over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report, confusion_matrix
from torch import Tensor

from mtl.evaluation.metrics import TaskMetrics, class_scores, overall_scores, task_report
from mtl.evaluation.records import ClassReport, TaskReport

LABELS = ["anger", "joy", "sadness", "surprise"]


def predictions(rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits ``(B, C)`` and labels ``(B,)``, the classes of very different frequency."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(2.0 ** -torch.arange(classes), rows, replacement=True, generator=generator)
    logits = torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), labels] += 1
    return logits, labels


def assert_equals_sklearn(report: TaskReport, truth: Tensor, predicted: Tensor) -> None:
    classes = range(len(report.labels))
    expected: dict[str, Any] = classification_report(
        truth, predicted, labels=list(classes), target_names=report.labels, zero_division=0, output_dict=True
    )
    for label in report.labels:
        scores, wanted = report.per_class[label], expected[label]
        found = [scores.precision, scores.recall, scores.f1, scores.support]
        assert found == pytest.approx([wanted[key] for key in ("precision", "recall", "f1-score", "support")])
    for kind in ("macro", "weighted"):
        for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert getattr(report, f"{kind}_{name}") == pytest.approx(expected[f"{kind} avg"][key])
    assert report.accuracy == pytest.approx(np.mean(truth.numpy() == predicted.numpy()))
    assert report.confusion == confusion_matrix(truth, predicted, labels=list(classes)).tolist()


@pytest.mark.parametrize("rows", [1, 7, 500])
@pytest.mark.parametrize("classes", [2, 4, 30])
def test_report_equals_sklearn(rows: int, classes: int) -> None:
    logits, labels = predictions(rows, classes, seed=rows + classes)
    metrics = TaskMetrics(classes)
    metrics.update(logits, labels)
    report = task_report(metrics.compute()["confusion"], [f"class {index}" for index in range(classes)])
    assert_equals_sklearn(report, labels, logits.argmax(dim=1))


@pytest.mark.parametrize(("true", "guessed"), [(0, 0), (0, 1), (3, 0)])
def test_one_class_only_equals_sklearn(true: int, guessed: int) -> None:
    truth, predicted = torch.full((9,), true), torch.full((9,), guessed)
    metrics = TaskMetrics(4)
    metrics.update(torch.nn.functional.one_hot(predicted, 4).float(), truth)
    assert_equals_sklearn(task_report(metrics.compute()["confusion"], LABELS), truth, predicted)


def test_figures_of_a_small_matrix() -> None:
    report = task_report(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert report.accuracy == pytest.approx(5 / 6)
    assert report.per_class["b"] == ClassReport(precision=2 / 3, recall=1.0, f1=0.8, support=2)
    assert report.per_class["c"] == ClassReport(precision=0.0, recall=0.0, f1=0.0, support=0)
    assert report.macro_f1 == pytest.approx((6 / 7 + 0.8 + 0) / 3)
    assert report.weighted_f1 == pytest.approx((4 * 6 / 7 + 2 * 0.8) / 6)
    assert report.rows == 6
    assert report.majority_accuracy == 4 / 6
    assert report.labels == ("a", "b", "c")


def test_no_rows_give_zeros() -> None:
    confusion = torch.zeros(2, 2, dtype=torch.long)
    assert all(value == 0 for value in overall_scores(confusion).values())
    report = task_report(confusion, ["a", "b"])
    assert (report.rows, report.majority_accuracy) == (0, 0)


def test_counts_are_exact_beyond_float32() -> None:
    many = 2**24 + 1
    assert class_scores(torch.tensor([[many, 0], [0, 1]])).support[0] == many
    assert overall_scores(torch.tensor([[many, 1], [0, 0]]))["accuracy"] < 1


def test_batches_and_halves_add_up() -> None:
    logits, labels = predictions(100, 4, seed=0)
    whole, parts = TaskMetrics(4), TaskMetrics(4)
    whole.update(logits, labels)
    for at in (slice(0, 1), slice(1, 1), slice(1, 64), slice(64, 100)):
        parts.update(logits[at].bfloat16().float(), labels[at])
    assert torch.equal(parts.compute()["confusion"].sum(dim=1), whole.compute()["confusion"].sum(dim=1))
    assert parts.compute()["confusion"].sum() == 100


def test_reset_forgets() -> None:
    metrics = TaskMetrics(2)
    metrics.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    metrics.compute()
    metrics.reset()
    metrics.update(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert metrics.compute()["accuracy"] == 1
    assert metrics.compute()["confusion"].tolist() == [[0, 0], [0, 1]]


def test_rows_with_a_logit_that_is_not_finite_are_counted() -> None:
    metrics = TaskMetrics(2)
    metrics.update(torch.tensor([[0.0, float("nan")], [float("inf"), 0.0], [1.0, 2.0]]), torch.tensor([0, 0, 1]))
    assert metrics.compute()["not_finite"] == 2
    metrics.reset()
    metrics.update(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))
    assert metrics.compute()["not_finite"] == 0


def test_ranks_are_summed() -> None:
    def gather(state: Tensor, group: object = None) -> list[Tensor]:
        return [state, torch.tensor([[0, 4], [0, 0]]) if state.ndim else torch.tensor(2)]

    metrics = TaskMetrics(2, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    metrics.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    report = task_report(metrics.compute()["confusion"], ["a", "b"])
    assert report.confusion == [[1, 4], [0, 0]]
    assert report.accuracy == pytest.approx(0.2)
    assert metrics.compute()["not_finite"] == 2
    assert metrics.confusion.tolist() == [[1, 0], [0, 0]]  # its own counts again once the report is made


def test_metric_keeps_no_graph_and_stays_out_of_the_state_dict() -> None:
    metrics = TaskMetrics(2)
    metrics.update(torch.zeros(3, 2, requires_grad=True), torch.zeros(3, dtype=torch.long))
    assert not metrics.confusion.requires_grad
    assert metrics.state_dict() == {}

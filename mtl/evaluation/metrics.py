"""Metrics of one task, all derived from one confusion matrix that is counted on the device and summed over ranks.

Notation: ``B`` rows in a batch, ``C`` classes of the task; a confusion matrix has shape ``(C, C)``, row = true class,
column = predicted class. Conventions, as in scikit-learn with ``labels=range(C), zero_division=0``: a quotient without
a denominator is 0.0, macro averages go over *all* ``C`` classes of the task, also over those without any row, and
weighted averages weigh each class by its support (its true rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from mtl.evaluation.counts import Integers, confusion_matrix, f1_scores
from mtl.evaluation.records import ClassReport, TaskReport


class ClassScores(NamedTuple):
    """The metrics of all classes, each of shape ``(C,)``; ``support`` counts their true rows."""

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


def class_scores(confusion: Tensor) -> ClassScores:
    """Return precision, recall, F1 and support of every class from counts ``(C, C)``."""
    counts = _real(confusion)
    right, support, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    return ClassScores(
        precision=_ratio(right, predicted),
        recall=_ratio(right, support),
        f1=f1_scores(right, support + predicted),
        support=support,
    )


def overall_scores(confusion: Tensor) -> dict[str, Tensor]:
    """Return scalars from counts ``(C, C)``: accuracy, and ``macro_…`` and ``weighted_…`` precision, recall and F1."""
    scores = class_scores(confusion)
    support, rows = scores.support, scores.support.sum()
    kinds = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}
    return {
        "accuracy": _ratio(_real(confusion).diagonal().sum(), rows),
        **{f"macro_{kind}": values.mean() for kind, values in kinds.items()},
        **{f"weighted_{kind}": _ratio((values * support).sum(), rows) for kind, values in kinds.items()},
    }


def task_report(confusion: Tensor, labels: Sequence[str]) -> TaskReport:
    """Return the report of a task from counts ``(C, C)`` and the ``C`` class names in the order of their rows."""
    columns = [column.tolist() for column in class_scores(confusion)]
    per_class = {
        label: ClassReport(precision, recall, f1, int(support))
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    }
    overall: dict[str, Any] = {name: value.item() for name, value in overall_scores(confusion).items()}
    return TaskReport(**overall, per_class=per_class, confusion=confusion.tolist())


def report_of_rows(labels: Integers, predicted: Integers, names: Sequence[str]) -> TaskReport:
    """Return the report of a task from the true and predicted classes of its rows, ``(N,)`` each."""
    return task_report(torch.from_numpy(confusion_matrix(labels, predicted, len(names))), names)


class TaskMetrics(Metric):
    """Counts the predictions of one task in a confusion matrix and derives all metrics from it.

    It lives on the device of its module and is summed over the ranks at `compute`.
    """

    full_state_update = False
    confusion: Tensor
    not_finite: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.long)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")
        self.add_state("not_finite", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch of logits ``(B, C)`` and labels ``(B,)``, 0 to ``C - 1``; of equal logits the first counts."""
        self.not_finite += (~logits.detach().isfinite()).any(dim=1).sum()
        # torchmetrics' own validation of the values would wait for the device at every batch.
        self.confusion += multiclass_confusion_matrix(logits.detach(), labels, self.num_classes, validate_args=False)

    def compute(self) -> dict[str, Tensor]:
        """Return the scalars of `overall_scores`, under ``confusion`` the counts ``(C, C)``, and ``not_finite``.

        The last one is the number of rows with a NaN or infinite logit, whose predictions are meaningless.
        """
        return {**overall_scores(self.confusion), "confusion": self.confusion, "not_finite": self.not_finite}


def _real(confusion: Tensor) -> Tensor:
    """Return the counts in float64, exact up to 2^53 rows; in float32 on MPS, which has no float64."""
    return confusion.to(torch.float32 if confusion.device.type == "mps" else torch.float64)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return ``part / whole``, 0 where ``whole`` is 0 (then ``part`` is 0 too)."""
    return part / whole.clamp(min=1)

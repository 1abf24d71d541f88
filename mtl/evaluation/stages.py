"""The metrics of each stage of a multi-stage head, from the probabilities of the labels.

Notation: ``N`` rows, ``C`` labels, ``K`` coarse classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mtl.base.label_tree import LabelTree
from mtl.evaluation.metrics import report_of_rows
from mtl.evaluation.records import StageReports, TaskReport
from mtl.evaluation.scoring import Scored
from mtl.model.saved import TaskHead, multi_stage_specs

if TYPE_CHECKING:
    from numpy.typing import NDArray


def coarse_probabilities(tree: LabelTree, probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the probabilities ``(N, K)`` of the coarse classes: sums over their labels' probabilities ``(N, C)``."""
    coarse = np.zeros((len(probabilities), len(tree.branches)))
    for label, branch in enumerate(tree.branch_of):
        coarse[:, branch] += probabilities[:, label]
    return coarse


def stage_reports(tree: LabelTree, probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> StageReports:
    """Return the metrics of both stages from the labels' probabilities ``(N, C)`` and the true class ids ``(N,)``."""
    coarse = coarse_probabilities(tree, probabilities)
    branches = np.array(tree.branch_of)[labels]
    second = {}
    for name, ids in tree.divided.items():
        rows = np.flatnonzero(np.isin(labels, ids))
        truth = np.searchsorted(ids, labels[rows])  # the ids of a branch are ascending
        second[name] = _report(probabilities[rows][:, ids], truth, tree.branches[name])
    first_loss = _log_loss(coarse, branches)
    return StageReports(
        first=_report(coarse, branches, list(tree.branches)),
        second=second,
        first_loss=first_loss,
        second_loss=max(0.0, _log_loss(probabilities, labels) - first_loss),
    )


def _report(probabilities: NDArray[np.floating], truth: NDArray[np.int64], names: Sequence[str]) -> TaskReport:
    return report_of_rows(truth, probabilities.argmax(axis=1), names)


def _log_loss(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    """Return the mean of ``-log p`` of the true classes, 0 without rows; probabilities are clipped at 1e-38."""
    if not len(truth):
        return 0.0
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.maximum(of_truth, 1e-38)).mean())


def with_stages(
    scored: Mapping[str, Mapping[str, Scored]], heads: Mapping[str, TaskHead]
) -> dict[str, dict[str, Scored]]:
    """Return the scores of each task and split with the metrics of each stage where a head has several."""
    trees = {name: LabelTree.over(heads[name].labels, spec.tree) for name, spec in multi_stage_specs(heads).items()}
    return {
        task: {split: _staged(score, trees[task]) if task in trees else score for split, score in splits.items()}
        for task, splits in scored.items()
    }


def _staged(scored: Scored, tree: LabelTree) -> Scored:
    predictions = scored.predictions
    stages = stage_reports(tree, predictions.probabilities, predictions.ids(predictions.labels))
    return replace(scored, report=replace(scored.report, stages=stages))

"""The report's section on probabilities: how far they can be trusted, and what was fitted on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mtl.base import formatting
from mtl.evaluation.calibration_report import DECISIONS, MEASURES, CalibrationReport
from mtl.evaluation.summary import calibrations
from mtl.evaluation.task_report import TaskReport
from mtl.reporting.markdown import escaped, folded, table


def calibration_section(tasks: Mapping[str, Mapping[str, TaskReport]]) -> Iterator[str]:
    """Yield the Markdown blocks; nothing where no report has a calibration.

    Args:
        tasks: The report of each task (outer key) on each split (inner key).
    """
    found = calibrations(tasks)
    if not found:
        return
    yield from ("## Calibration", _figures(found), _EXPLAINED)
    if any(each.tau for _, _, each in found):
        yield from ("**Decision rule**", _decisions(found), _RULE_EXPLAINED)
    for task, split, each in found:
        if split != "val" or "test" not in tasks[task]:
            yield folded(f"Reliability of {task} on {split}", _bins(each))


_EXPLAINED = (
    "Without → with the *temperature*, by which the logits are divided (Guo et al. 2017). It was fitted on val, so the "
    "figures on test are the honest ones; it changes no predicted class. *ECE*, the expected calibration error, is the "
    "mean gap between confidence and accuracy; *NLL* the mean negative log-likelihood of the true classes; the *Brier "
    "score* the mean squared error of all probabilities. Lower is better."
)
_RULE_EXPLAINED = (
    "Without → with *tau* times the log-frequencies of the training rows taken out of the logits (Menon et al. 2021); "
    "tau was chosen on val for macro-F1, the weakest that is within one standard error of the best."
)

Rows = list[tuple[str, str, CalibrationReport]]


def _figures(found: Rows) -> str:
    rows = [
        [escaped(task), escaped(split), f"{each.temperature:.3f}", *_changes(each, MEASURES)]
        for task, split, each in found
    ]
    return table(["task", "split", "temperature", "ECE", "NLL", "Brier score"], rows, left=2)


def _decisions(found: Rows) -> str:
    rows = [[escaped(task), escaped(split), f"{each.tau:g}", *_changes(each, DECISIONS)] for task, split, each in found]
    return table(["task", "split", "tau", "accuracy", "macro-F1"], rows, left=2)


def _changes(found: CalibrationReport, names: tuple[str, ...]) -> list[str]:
    return [formatting.change(getattr(found.before, name), getattr(found.after, name)) for name in names]


def _bins(found: CalibrationReport) -> str:
    rows = [
        [
            f"{each.lower:.3f}–{each.upper:.3f}",
            formatting.count(each.count),
            formatting.score(each.confidence),
            formatting.score(each.accuracy),
        ]
        for each in found.bins
        if each.count
    ]
    return table(["probability of the predicted class", "rows", "mean", "share right"], rows)

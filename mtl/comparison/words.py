"""How the figures and differences of a comparison are written, alike in all its outputs."""

from __future__ import annotations

from collections.abc import Iterable

from mtl.base import formatting
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import SCORE, Difference
from mtl.comparison.scenario_metrics import RARE_SHARE, Spread
from mtl.evaluation.runs import Unfinished

MEASURE = {
    SCORE: "score",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "rare_f1": "rare F1",
    "calibration_error": "calibration error",
}


def spread(figure: Spread | None) -> str:
    """Return a metric with its deviation: ``0.846 ± 0.012``."""
    if figure is None:
        return formatting.NOTHING
    deviation = "" if figure.deviation is None else f" ± {figure.deviation:.3f}"
    return formatting.score(figure.mean) + deviation


def signed(value: float) -> str:
    """Return a difference with its sign, a true minus before negative ones and none before 0.000."""
    shown = f"{value:+.3f}"
    return "0.000" if float(shown) == 0 else shown.replace("-", "−")


def interval(difference: Difference, *, turned: bool = False) -> str:
    """Return the 95 % interval of a difference: ``−0.087 to −0.005``; ``turned``: of the reference's lead."""
    low, high = (-difference.high, -difference.low) if turned else (difference.low, difference.high)
    return f"{signed(low)} to {signed(high)}"


def p_value(value: float) -> str:
    """Return a p-value with its sign of relation."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


REAL, NOISE, THESE_RUNS = "real", "within noise", "real for these runs"
"""The verdicts. The last one is for scenarios with one seed each, whose noise over seeds is not known."""
ONE_SEED = (
    "larger than the noise of the test rows, but with one seed each, seeds are not compared: another seed may turn it "
    "around."
)
"""What `THESE_RUNS` means."""


def verdict(difference: Difference | None) -> str:
    """Return whether a difference is real, in a few words."""
    if difference is None:
        return formatting.NOTHING
    if not difference.real:
        return NOISE
    return REAL if difference.over_seeds else THESE_RUNS


def evidence(difference: Difference, *, turned: bool = False) -> str:
    """Return interval, p-value and verdict for a sentence."""
    real = "larger than noise" if difference.over_seeds else "larger than the noise of the test rows"
    judged = f"{real if difference.real else NOISE}{'' if difference.over_seeds else '; seeds are not compared'}"
    return f"95 % interval {interval(difference, turned=turned)}, {p_value(difference.p_adjusted)}: {judged}"


def ranking(comparison: Comparison) -> str:
    """Return by which rows the scenarios are ranked, and on which their figures were measured."""
    runs = [run for row in comparison.rows for run in row.scenario.runs]
    splits = {outcomes.split for run in runs for outcomes in run.outcomes.values()}
    if splits == {"val"}:
        return "Ranked and measured by macro-F1 on the same validation rows, as there are no test rows."
    if comparison.ranked_by == "validation":
        by = "Ranked by macro-F1 on the validation rows;"
        return f"{by} all other figures are those of the test rows, by which nothing is chosen."
    by = "Ranked by macro-F1 on the test rows, as some runs have no validation figures:"
    return f"{by} the score of the best is too high by the luck of being chosen."


def both(names: Iterable[str]) -> str:
    """Return names as a phrase: ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


COST = (
    "Training time: training, its validation, and encoding each training and validation sentence once for frozen "
    "layers, as with an empty cache. – where a run does not know what encoding took."
)
SHARING = "Each task trained together with the others, minus the same trained alone, over the same test rows."


def method(comparison: Comparison) -> list[str]:
    """Return what a reader must know of how the figures were made."""
    tasks = "the macro-F1" if len(comparison.tasks) == 1 else f"macro-F1, averaged over {both(comparison.tasks)}"
    share = f"classes with less than {RARE_SHARE:.0%} of an equal share of the training rows".replace("%", " %")
    named = "; ".join(f"{task}: {', '.join(names)}" for task, names in comparison.rare_classes.items() if names)
    return [
        f"Score: {tasks}. ± is the standard deviation over seeds. {ranking(comparison)}",
        f"Rare F1: mean F1 of {share} ({named or 'there are none here'}).",
        f"Differences: paired bootstrap over {comparison.resamples:,} resamples of the test rows, plus noise of the "
        "seeds that follows Student's t; the variance of a scenario over its seeds is taken to be no less than the "
        "mean of all that learn. 95 % percentile intervals; two-sided p-values adjusted by Holm's method for all "
        "scenarios that are held against the same one in the same measure. Real: p < 0.05.",
        COST,
        "From two seeds their noise can hardly be estimated, so that only large differences are called real; three are "
        f"much better. {THESE_RUNS.capitalize()}: {ONE_SEED}",
    ]


def job_name(job: Unfinished) -> str:
    """Return what a job without figures is called: its folder, or what it was asked for if that is a number."""
    return job.folder.name if not job.folder.name.isdigit() or not job.overrides else " ".join(job.overrides)


def job_state(job: Unfinished) -> str:
    """Return what became of a job without figures."""
    return "failed" if job.failed else "unfinished"


def left_out(comparison: Comparison) -> list[str]:
    """Return one line for each job without figures, each file that could not be read, and each note."""
    jobs = [
        f"{job_state(job)}: {job.folder}"
        + (f" ({' '.join(job.overrides)})" if job.overrides else "")
        + (f": {formatting.shortened(job.reason, 200)}" if job.reason else "")
        for job in comparison.unfinished
    ]
    files = [
        f"not readable: {problem.place}: found {problem.found}, expected {problem.expected}"
        for problem in comparison.unreadable
    ]
    return [*jobs, *files, *comparison.notes]

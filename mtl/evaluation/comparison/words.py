"""How a comparison's figures and differences are written, in all its outputs alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mtl.evaluation import formatting
from mtl.evaluation.comparison.comparing import Comparison
from mtl.evaluation.comparison.differences import SCORE, Difference
from mtl.evaluation.comparison.figures import RARE_SHARE, Figures, Spread
from mtl.evaluation.comparison.finding import Unfinished

MEASURE = {SCORE: "score", "accuracy": "accuracy", "macro_f1": "macro-F1", "rare_f1": "rare F1"}


def spread(figure: Spread | None) -> str:
    """Return a metric with its deviation: ``0.846 ± 0.012``."""
    if figure is None:
        return formatting.NOTHING
    deviation = "" if figure.deviation is None else f" ± {figure.deviation:.3f}"
    return formatting.score(figure.mean) + deviation


def seconds(row: Figures) -> str:
    """Return a scenario's training time."""
    return formatting.duration(row.seconds)


def signed(value: float) -> str:
    """Return a difference with its sign, a true minus before negative ones and none before 0.000."""
    shown = f"{value:+.3f}"
    return "0.000" if float(shown) == 0 else shown.replace("-", "−")


def interval(difference: Difference, *, turned: bool = False) -> str:
    """Return the 95 % interval of a difference: ``−0.087 to −0.005``; ``turned``: of the reference's lead."""
    low, high = (difference.low, difference.high)
    low, high = (-high, -low) if turned else (low, high)
    return f"{signed(low)} to {signed(high)}"


def p_value(value: float) -> str:
    """Return a p-value with its sign of relation."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def verdict(difference: Difference | None) -> str:
    """Return whether a difference is real, in a word or two."""
    if difference is None:
        return formatting.NOTHING
    return "real" if difference.real else "within noise"


def evidence(difference: Difference, *, turned: bool = False) -> str:
    """Return interval, p-value and verdict for a sentence."""
    real = "larger than noise" if difference.real else "within noise"
    return f"95 % interval {interval(difference, turned=turned)}, {p_value(difference.p_adjusted)}: {real}"


def both(names: Iterable[str]) -> str:
    """Return names as a phrase: ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


SHARING = "Each task trained together with the others, minus the same trained alone, over the same test rows."


@dataclass(frozen=True, slots=True)
class SharingRow:
    """What a task gains or loses by sharing the encoder, as it is written.

    Attributes:
        scenario: The scenario with the other tasks.
        task: The task.
        measure: What was measured.
        alone: The figure of the task alone.
        together: That with the others.
        difference: The second minus the first.
    """

    scenario: str
    task: str
    measure: str
    alone: str
    together: str
    difference: Difference


def sharing(comparison: Comparison) -> list[SharingRow]:
    """Return what each task gains or loses by sharing the encoder, macro-F1 before the other measures."""
    rows = [_sharing_row(comparison, each) for each in comparison.sharing]
    return sorted(rows, key=lambda row: row.measure != MEASURE["macro_f1"])


def _sharing_row(comparison: Comparison, found: Difference) -> SharingRow:
    task = str(found.task)
    figures = (comparison.row(name).tasks[task] for name in (found.reference, found.scenario))
    alone, together = (spread(getattr(each, found.measure)) for each in figures)
    return SharingRow(found.scenario, task, MEASURE[found.measure], alone, together, found)


def method(comparison: Comparison) -> list[str]:
    """Return what a reader must know of how the figures were made."""
    tasks = "the macro-F1" if len(comparison.tasks) == 1 else f"macro-F1, averaged over {both(comparison.tasks)}"
    rare = {task: names for task, names in comparison.rare.items() if names}
    share = f"classes with less than {RARE_SHARE:.0%} of an equal share of the training rows".replace("%", " %")
    named = "; ".join(f"{task}: {', '.join(names)}" for task, names in rare.items())
    return [
        f"Score: {tasks}. ± is the standard deviation over seeds. Figures are those of the test rows.",
        f"Rare F1: mean F1 of {share} ({named or 'there are none here'}).",
        f"Differences: paired bootstrap, {comparison.resamples:,} resamples of the test rows and of the seeds, the "
        "metric averaged over the seeds within each; 95 % percentile intervals; two-sided p-values adjusted by "
        "Holm's method for all scenarios that are held against the same one in the same measure. Real: p < 0.05.",
        "With two or three seeds the bootstrap sees less of the noise of training than there is, with one seed none "
        "of it. The best was chosen on the very rows that it is judged on, so its own figure flatters it slightly.",
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

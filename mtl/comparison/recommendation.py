"""What follows from a comparison, in words: each sentence names the figures that support it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import Difference
from mtl.comparison.scenario_metrics import Figures

BUDGET = 0.1
"""What counts as cheap: at most this share of the training time of the most expensive scenario."""
_FEWER_ROWS = "what suits less data needs several scenarios on the same, fewer training rows, with the same test rows"
_ALIKE = 0.02  # a loss of score that is worth half of the time
_KEPT = 0.01  # a loss of correlation that goes unnoticed


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice.

    Attributes:
        question: What it answers, in a few words.
        answer: The scenario to take, or what is missing.
        reasons: Sentences with the figures that it follows from.
    """

    question: str
    answer: str
    reasons: Sequence[str]


def recommend(comparison: Comparison) -> list[Advice]:
    """Return the advice that the figures support: the best, the best for little cost, and what little data wants.

    Args:
        comparison: The comparison.
    """
    pieces = (_best, _budget, _little_data, _tasks, _sharing, _retention, _evidence)
    return [advice for piece in pieces for advice in piece(comparison)]


def _best(comparison: Comparison) -> Iterator[Advice]:
    best, others = comparison.best, _others(comparison)
    runs = len(best.scenario.runs)
    seeds = f"{runs} seed{'s' * (runs != 1)}"
    reasons = [f"{_chosen(comparison)} {words.spread(best.score)} over {seeds}, trained in {_time(best)}."]
    if not others:
        what = "scenario" if len(comparison.rows) == 1 else "scenario with all tasks"
        yield Advice("Best quality", best.name, [*reasons, f"It is the only {what}: there is nothing to compare."])
        return
    reasons.append(_lead(comparison, others[0]))
    tied = _tied(comparison)
    if tied and tied != others[:1]:
        reasons.append(f"From it {words.both(row.name for row in tied)} cannot be told apart on these rows.")
    enough = comparison.ranking_score(best) - _ALIKE
    cheaper = [
        row for row in tied if row.learns and _cost(row) < 0.5 * _cost(best) and comparison.ranking_score(row) > enough
    ]
    if cheaper and (found := comparison.difference((row := min(cheaper, key=_cost)).name, best.name)):
        told = f"{row.name} takes {_share(row, best)} of its time and is {_less(found.value)} it, which is within noise"
        reasons.append(f"{told}: try that first.")
    yield Advice("Best quality", best.name, reasons)


def _chosen(comparison: Comparison) -> str:
    """Return by what the best was chosen, up to its score on the test rows."""
    validation = comparison.best.validation
    if comparison.ranked_by == "test" or validation is None:
        return "Score, by which it was chosen:"
    return f"Best on the validation rows ({words.spread(validation)}); on the test rows it scores"


def _lead(comparison: Comparison, second: Figures) -> str:
    found = comparison.difference(second.name, comparison.best.name)
    if found is None:
        return f"{second.name} comes second, but they were tested on no row in common."
    if found.value == found.low == found.high == 0:
        return f"{second.name} predicts just the same."
    return f"There it is {_less(-found.value)} {second.name}, the second ({words.evidence(found, turned=True)})."


def _budget(comparison: Comparison) -> Iterator[Advice]:
    learning = [row for row in _ranked(comparison) if row.learns]
    timed = [row for row in learning if row.seconds is not None]
    if len(timed) < 2:
        return
    untimed = [row.name for row in learning if row.seconds is None]
    left_out = [f"What {words.both(untimed)} took is not known."] if untimed else []
    most = max(timed, key=_cost)
    affordable = [row for row in timed if _cost(row) <= BUDGET * _cost(most)]
    question = "Best within a tenth of the cost"
    if not affordable:
        row = min(timed, key=_cost)
        told = f"The cheapest, {row.name}, takes {_share(row, most)} of the time of the most expensive, {most.name}"
        told += f" ({_time(row)} of {_time(most)}), with a score of {_score(row)}."
        yield Advice(question, "no scenario", [told, *left_out])
        return
    row = affordable[0]
    spent = f"Trained in {_time(row)}, {_share(row, most)} of the time of the most expensive, {most.name}"
    encoding = row.encoding_seconds.mean if row.encoding_seconds else 0.0
    counted = f", {formatting.duration(encoding)} of it to encode each sentence once" if encoding else ""
    reasons = [f"{spent} ({_time(most)}){counted}."]
    found = comparison.difference(row.name, comparison.best.name)
    if row is comparison.best:
        reasons.append("It is also the best: what takes longer gains nothing here.")
    elif found is not None:
        reasons.append(
            f"Score {_score(row)}, {_less(found.value)} the best, {comparison.best.name} ({words.evidence(found)})."
        )
    yield Advice(question, row.name, [*reasons, *left_out])


def _little_data(comparison: Comparison) -> Iterator[Advice]:
    question = "With little data"
    row = comparison.best_with_fewest_rows
    if row is None or row.scenario.size is None:
        yield Advice(question, "no evidence", [f"{_of_sizes(comparison)}: {_FEWER_ROWS}."])
        return
    size = f"{row.scenario.size:,} training rows"
    peers = [each for each in _ranked(comparison) if each.scenario.size == row.scenario.size and each is not row]
    if not peers:
        yield Advice(question, "no evidence", [f"Only {row.name} was trained on as few as {size}: {_FEWER_ROWS}."])
        return
    reasons = [f"The best of {len(peers) + 1} scenarios with {size}: {_score(row)}."]
    if found := comparison.difference(peers[0].name, row.name):
        evidence = words.evidence(found, turned=True)
        reasons.append(f"It is {_less(-found.value)} {peers[0].name} ({evidence}).")
    found = comparison.difference(row.name, comparison.best.name)
    if found is not None:
        reasons.append(f"That is {_less(found.value)} the best with all rows ({words.evidence(found)}).")
    yield Advice(question, row.name, reasons)


def _tasks(comparison: Comparison) -> Iterator[Advice]:
    """Name a scenario that suits a single task better than the best one does: by validation, and really so by test."""
    for task in comparison.tasks:
        row = max(
            (row for row in comparison.rows if task in row.tasks), key=lambda row: _of_task(comparison, row, task)
        )
        found = comparison.difference(row.name, comparison.best.name, task, "macro_f1")
        if found is not None and found.value > 0 and found.real:
            told = f"Macro-F1 {found.value:.3f} above {comparison.best.name} on this task ({words.evidence(found)})."
            yield Advice(f"For {task} alone", row.name, [told])


def _of_task(comparison: Comparison, row: Figures, task: str) -> float:
    """Return macro-F1 of a task on the rows by which scenarios are ranked."""
    figures = row.tasks[task]
    chosen = figures.validation if comparison.ranked_by == "validation" else figures.macro_f1
    return chosen.mean if chosen else float("-inf")


def _sharing(comparison: Comparison) -> Iterator[Advice]:
    """Say what each task gains or loses by sharing the encoder, in the best of the scenarios that can tell."""
    known = [each for each in comparison.sharing if each.measure == "macro_f1"]
    names = [row.name for row in comparison.rows if any(each.scenario == row.name for each in known)]
    if not names:
        return
    found = [each for each in known if each.scenario == names[0]]
    reasons = [f"In {names[0]}, macro-F1 with the others minus alone:"]
    reasons += [f"{each.task} {words.signed(each.value)} ({words.evidence(each)})." for each in found]
    together, alone = comparison.row(names[0]), [comparison.row(each.reference) for each in found]
    if len(alone) == len(together.tasks) and all(row.seconds is not None for row in (together, *alone)):
        apart = formatting.duration(sum(row.seconds or 0.0 for row in alone))
        reasons.append(f"Training took {_time(together)} for all together and {apart} one by one.")
    yield Advice("Sharing the encoder", "; ".join(map(_shared, found)), reasons)


def _shared(found: Difference) -> str:
    if not found.real:
        return f"no difference for {found.task} beyond noise"
    return f"{'helps' if found.value > 0 else 'costs'} {found.task}"


def _retention(comparison: Comparison) -> Iterator[Advice]:
    best, before = comparison.best, comparison.best.retention_before
    if best.retention is None or before is None:
        return
    lost = before.mean - best.retention.mean
    told = f"{best.name} moved the correlation on sentence pairs from {before.mean:.3f} to {best.retention.mean:.3f}."
    question = "For other uses of the encoder"
    if lost == 0:
        yield Advice(question, best.name, [f"It leaves the correlation on sentence pairs at {before.mean:.3f}."])
        return
    if lost < _KEPT:
        yield Advice(question, best.name, [told, f"It lost less than {_KEPT}."])
        return
    keeping = [row for row in _ranked(comparison) if row.retention and before.mean - row.retention.mean < _KEPT]
    if not keeping:
        yield Advice(question, "no scenario", [told, f"No scenario lost less than {_KEPT}."])
        return
    row = keeping[0]
    assert row.retention is not None  # noqa: S101 - just looked at
    kept = f"{row.name} keeps {row.retention.mean:.3f} and is the best of those that lost less than {_KEPT}: score"
    yield Advice(question, row.name, [told, f"{kept} {_score(row)}."])


def _evidence(comparison: Comparison) -> Iterator[Advice]:
    """Say what would make the answer surer."""
    reasons = []
    single = [row.name for row in comparison.rows if len(row.scenario.runs) == 1]
    if single:
        reasons.append(
            f"{words.both(single)} ran with one seed: seeds are not compared, and another one may turn it around."
        )
    if len(comparison.rows) == 1:
        reasons.append("There is one scenario: add others.")
    elif _tied(comparison):
        rows = sum(len(each.predictions) for each in comparison.best.scenario.runs[0].outcomes.values())
        reasons.append(f"Differences of this size need more than the {rows:,} test rows there are, or more seeds.")
        if any(len(row.scenario.runs) == 2 for row in comparison.rows):
            reasons.append("Two seeds are too few to tell how much seeds differ: a third narrows the intervals most.")
    if comparison.unfinished or comparison.unreadable:
        count = len(comparison.unfinished) + len({problem.place for problem in comparison.unreadable})
        reasons.append(f"{count} job{'s' * (count != 1)} without usable figures could change the picture.")
    if reasons:
        yield Advice("What would make it surer", "more evidence", reasons)


def _ranked(comparison: Comparison) -> list[Figures]:
    return [row for row in comparison.rows if row.score is not None]


def _others(comparison: Comparison) -> list[Figures]:
    return [row for row in _ranked(comparison) if row is not comparison.best]


def _tied(comparison: Comparison) -> list[Figures]:
    """Return the scenarios whose score cannot be told from the best one's."""
    pairs = ((row, comparison.difference(row.name, comparison.best.name)) for row in _others(comparison))
    return [row for row, found in pairs if found is not None and not found.real]


def _of_sizes(comparison: Comparison) -> str:
    """Return why the runs do not tell what suits less data."""
    sizes = {row.scenario.size for row in comparison.rows}
    if None in sizes:
        return "The runs do not tell their rows"
    return "All runs had the same training rows" if len(sizes) == 1 else "Nothing was trained on the fewest rows"


def _cost(row: Figures) -> float:
    return float("inf") if row.seconds is None else row.seconds


def _less(value: float) -> str:
    return f"{abs(value):.3f} {'below' if value < 0 else 'above'}"


def _time(row: Figures) -> str:
    if row.seconds is None:
        return "an unknown time"
    return "no time" if row.seconds == 0 else words.seconds(row)


def _score(row: Figures) -> str:
    return words.spread(row.score)


def _share(row: Figures, whole: Figures) -> str:
    return formatting.share(_cost(row), _cost(whole))

"""Recommendations from a comparison, in words: each sentence names the numbers that support it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.comparing import Comparison, ranking_score
from mtl.comparison.differences import Difference
from mtl.comparison.scenario_metrics import Figures
from mtl.data.problems import plural

BUDGET = 0.1
"""A scenario is cheap if it takes at most this share of the training time of the most expensive one."""
_FEWER_ROWS = "what suits less data needs several scenarios on the same, fewer training rows, with the same test rows"
_ALIKE = 0.02  # a loss of score that is acceptable for half of the time
_KEPT = 0.01  # a negligible loss of correlation


@dataclass(frozen=True, slots=True)
class Advice:
    """One piece of advice."""

    question: str
    answer: str  # the recommended scenario, or what is missing
    reasons: Sequence[str]  # sentences with the supporting numbers


def recommend(comparison: Comparison) -> list[Advice]:
    """Return the advice that a comparison supports: the best scenario, the best at low cost and with little data."""
    questions = (_best, _budget, _little_data, _tasks, _sharing, _retention, _evidence)
    return [advice for question in questions for advice in question(comparison)]


def _best(comparison: Comparison) -> Iterator[Advice]:
    best, others = comparison.best, _others(comparison)
    seeds = plural(len(best.scenario.runs), "seed")
    reasons = [f"{_chosen(comparison)} {_score(best)} over {seeds}, trained in {_time(best)}."]
    if not others:
        what = "scenario" if len(comparison.rows) == 1 else "scenario with all tasks"
        yield Advice("Best quality", best.name, [*reasons, f"It is the only {what}: there is nothing to compare."])
        return
    reasons.append(_lead(comparison, others[0]))
    tied = _tied(comparison)
    if tied and tied != others[:1]:
        reasons.append(f"From it {words.both(row.name for row in tied)} cannot be told apart on these rows.")
    by = comparison.ranked_by
    enough = ranking_score(best, by) - _ALIKE
    cheaper = [row for row in tied if row.learns and row.cost < 0.5 * best.cost and ranking_score(row, by) > enough]
    row = min(cheaper, key=lambda row: row.cost, default=None)
    if row is not None and (gap := comparison.difference(row.name, best.name)) is not None:
        cheap = f"{row.name} takes {_share(row, best)} of its time and is {_less(gap.value)} it"
        reasons.append(f"{cheap}, which is within noise: try that first.")
    yield Advice("Best quality", best.name, reasons)


def _chosen(comparison: Comparison) -> str:
    """Return how the best was chosen, as the beginning of a sentence that ends with its test score."""
    validation = comparison.best.validation
    if comparison.ranked_by == "test" or validation is None:
        return "Score, by which it was chosen:"
    return f"Best on the validation rows ({words.spread(validation)}); on the test rows it scores"


def _lead(comparison: Comparison, second: Figures) -> str:
    difference = comparison.difference(second.name, comparison.best.name)
    if difference is None:
        return f"{second.name} comes second, but they were tested on no row in common."
    if difference.value == difference.low == difference.high == 0:
        return f"{second.name} predicts just the same."
    return (
        f"There it is {_less(-difference.value)} {second.name}, the second ({words.evidence(difference, turned=True)})."
    )


def _budget(comparison: Comparison) -> Iterator[Advice]:
    learning = [row for row in _ranked(comparison) if row.learns]
    timed = [row for row in learning if row.seconds is not None]
    if len(timed) < 2:
        return
    untimed = [row.name for row in learning if row.seconds is None]
    left_out = [f"What {words.both(untimed)} took is not known."] if untimed else []
    most = max(timed, key=lambda row: row.cost)
    affordable = [row for row in timed if row.cost <= BUDGET * most.cost]
    question = "Best within a tenth of the cost"
    if not affordable:
        row = min(timed, key=lambda row: row.cost)
        cheapest = f"The cheapest, {row.name}, takes {_share(row, most)} of the time of the most expensive, {most.name}"
        cheapest += f" ({_time(row)} of {_time(most)}), with a score of {_score(row)}."
        yield Advice(question, "no scenario", [cheapest, *left_out])
        return
    row = affordable[0]
    spent = f"Trained in {_time(row)}, {_share(row, most)} of the time of the most expensive, {most.name}"
    encoding = row.encoding_seconds.mean if row.encoding_seconds else 0.0
    counted = f", {formatting.duration(encoding)} of it to encode each sentence once" if encoding else ""
    reasons = [f"{spent} ({_time(most)}){counted}."]
    difference = comparison.difference(row.name, comparison.best.name)
    if row is comparison.best:
        reasons.append("It is also the best: what takes longer gains nothing here.")
    elif difference is not None:
        below = f"{_less(difference.value)} the best, {comparison.best.name} ({words.evidence(difference)})"
        reasons.append(f"Score {_score(row)}, {below}.")
    yield Advice(question, row.name, [*reasons, *left_out])


def _little_data(comparison: Comparison) -> Iterator[Advice]:
    question = "With little data"
    row = comparison.best_with_fewest_rows
    if row is None or row.scenario.size is None:
        yield Advice(question, "no evidence", [f"{_of_sizes(comparison)}: {_FEWER_ROWS}."])
        return
    size = f"{row.scenario.size:,} training rows"
    peers = [peer for peer in _ranked(comparison) if peer.scenario.size == row.scenario.size and peer is not row]
    if not peers:
        yield Advice(question, "no evidence", [f"Only {row.name} was trained on as few as {size}: {_FEWER_ROWS}."])
        return
    reasons = [f"The best of {len(peers) + 1} scenarios with {size}: {_score(row)}."]
    if difference := comparison.difference(peers[0].name, row.name):
        evidence = words.evidence(difference, turned=True)
        reasons.append(f"It is {_less(-difference.value)} {peers[0].name} ({evidence}).")
    difference = comparison.difference(row.name, comparison.best.name)
    if difference is not None:
        reasons.append(f"That is {_less(difference.value)} the best with all rows ({words.evidence(difference)}).")
    yield Advice(question, row.name, reasons)


def _tasks(comparison: Comparison) -> Iterator[Advice]:
    """Recommend a scenario for a single task that is the best by validation and significantly better by test."""
    ranked_by = "validation" if comparison.ranked_by == "validation" else "macro_f1"
    for task in comparison.tasks:
        scores = {row.name: getattr(row.tasks[task], ranked_by) for row in comparison.rows if task in row.tasks}
        name = max(scores, key=lambda name: scores[name].mean if scores[name] else float("-inf"))
        difference = comparison.difference(name, comparison.best.name, task, "macro_f1")
        if difference is not None and difference.value > 0 and difference.real:
            above = f"Macro-F1 {difference.value:.3f} above {comparison.best.name} on this task"
            yield Advice(f"For {task} alone", name, [f"{above} ({words.evidence(difference)})."])


def _sharing(comparison: Comparison) -> Iterator[Advice]:
    """Tell what each task gains or loses by sharing the encoder, in the best scenario with such a comparison."""
    known = [gain for gain in comparison.sharing if gain.measure == "macro_f1"]
    name = next((row.name for row in comparison.rows if any(gain.scenario == row.name for gain in known)), None)
    if name is None:
        return
    gains = [gain for gain in known if gain.scenario == name]
    reasons = [f"In {name}, macro-F1 with the others minus alone:"]
    reasons += [f"{gain.task} {words.signed(gain.value)} ({words.evidence(gain)})." for gain in gains]
    together, alone = comparison.row(name), [comparison.row(gain.reference) for gain in gains]
    if len(alone) == len(together.tasks) and all(row.seconds is not None for row in (together, *alone)):
        apart = formatting.duration(sum(row.seconds or 0.0 for row in alone))
        reasons.append(f"Training took {_time(together)} for all together and {apart} one by one.")
    yield Advice("Sharing the encoder", "; ".join(map(_shared, gains)), reasons)


def _shared(difference: Difference) -> str:
    if not difference.real:
        return f"no difference for {difference.task} beyond noise"
    return f"{'helps' if difference.value > 0 else 'costs'} {difference.task}"


def _retention(comparison: Comparison) -> Iterator[Advice]:
    best, before = comparison.best, comparison.best.retention_before
    if best.retention is None or before is None:
        return
    lost = before.mean - best.retention.mean
    moved = f"{best.name} moved the correlation on sentence pairs from {before.mean:.3f} to {best.retention.mean:.3f}."
    question = "For other uses of the encoder"
    if lost == 0:
        yield Advice(question, best.name, [f"It leaves the correlation on sentence pairs at {before.mean:.3f}."])
        return
    if lost < _KEPT:
        yield Advice(question, best.name, [moved, f"It lost less than {_KEPT}."])
        return
    for row in _ranked(comparison):
        if row.retention and before.mean - row.retention.mean < _KEPT:
            kept = f"{row.name} keeps {row.retention.mean:.3f} and is the best of those that lost less than {_KEPT}"
            yield Advice(question, row.name, [moved, f"{kept}: score {_score(row)}."])
            return
    yield Advice(question, "no scenario", [moved, f"No scenario lost less than {_KEPT}."])


def _evidence(comparison: Comparison) -> Iterator[Advice]:
    """Tell what would make the answer more certain."""
    reasons = []
    single = [row.name for row in comparison.rows if len(row.scenario.runs) == 1]
    if single:
        reasons.append(
            f"{words.both(single)} ran with one seed: seed noise is unknown, and another seed may reverse the order."
        )
    if len(comparison.rows) == 1:
        reasons.append("There is one scenario: add others.")
    elif _tied(comparison):
        rows = sum(len(outcomes.predictions) for outcomes in comparison.best.scenario.runs[0].outcomes.values())
        reasons.append(f"Differences of this size need more than the {rows:,} test rows there are, or more seeds.")
        if any(len(row.scenario.runs) == 2 for row in comparison.rows):
            reasons.append("Two seeds are too few to estimate the noise of seeds: a third narrows the intervals most.")
    if comparison.unfinished or comparison.unreadable:
        count = len(comparison.unfinished) + len({problem.place for problem in comparison.unreadable})
        reasons.append(f"{plural(count, 'job')} without usable metrics could change the result.")
    if reasons:
        yield Advice("What would make it more certain", "more evidence", reasons)


def _ranked(comparison: Comparison) -> list[Figures]:
    return [row for row in comparison.rows if row.score is not None]


def _others(comparison: Comparison) -> list[Figures]:
    return [row for row in _ranked(comparison) if row is not comparison.best]


def _tied(comparison: Comparison) -> list[Figures]:
    """Return the scenarios whose score does not differ significantly from the best one's."""
    pairs = ((row, comparison.difference(row.name, comparison.best.name)) for row in _others(comparison))
    return [row for row, difference in pairs if difference is not None and not difference.real]


def _of_sizes(comparison: Comparison) -> str:
    """Return why the runs do not show what suits less data."""
    sizes = {row.scenario.size for row in comparison.rows}
    if None in sizes:
        return "The runs do not record their training rows"
    return "All runs had the same training rows" if len(sizes) == 1 else "Nothing was trained on the fewest rows"


def _less(value: float) -> str:
    return f"{abs(value):.3f} {'below' if value < 0 else 'above'}"


def _time(row: Figures) -> str:
    if row.seconds is None:
        return "an unknown time"
    return "no time" if row.seconds == 0 else formatting.duration(row.seconds)


def _score(row: Figures) -> str:
    return words.spread(row.score)


def _share(row: Figures, whole: Figures) -> str:
    return formatting.share(row.cost, whole.cost)

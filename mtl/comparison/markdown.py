"""A comparison as Markdown: the answer first, then the figures it follows from, then how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtl.base import formatting
from mtl.comparison import words
from mtl.comparison.columns import columns
from mtl.comparison.comparing import Comparison
from mtl.comparison.differences import SCORE, Difference
from mtl.comparison.recommendation import Advice
from mtl.reporting.markdown import code, escaped, folded, table


def render(comparison: Comparison, advice: Sequence[Advice]) -> str:
    """Return the comparison as Markdown.

    Args:
        comparison: The comparison.
        advice: What follows from it.
    """
    return "\n\n".join(_blocks(comparison, advice)) + "\n"


def _blocks(comparison: Comparison, advice: Sequence[Advice]) -> Iterator[str]:
    yield "# Comparison of scenarios"
    for each in advice:
        yield f"**{escaped(each.question)}: {escaped(each.answer)}.** " + " ".join(map(escaped, each.reasons))
    yield from ("## Scenarios", words.ranking(comparison), _scenarios(comparison))
    yield from _sharing(comparison)
    yield from _differences(comparison)
    yield from _left_out(comparison)
    yield from ("## How to read this", "\n".join(f"- {escaped(line)}" for line in words.method(comparison)))
    runs = [
        f"- {escaped(row.name)}: {', '.join(code(str(run.folder)) for run in row.scenario.runs)}"
        for row in comparison.rows
    ]
    yield folded("Runs", "\n".join(runs))


def _scenarios(comparison: Comparison) -> str:
    shown = columns(comparison)
    header = [escaped(f"{each.task}: {each.header}" if each.task else each.header) for each in shown]
    rows = [
        [escaped(row.name), _rows(row.scenario.size), str(len(row.scenario.runs)), *(each.shown(row) for each in shown)]
        for row in comparison.rows
    ]
    rows += [
        [escaped(words.job_name(job)), formatting.NOTHING, words.job_state(job), *[formatting.NOTHING] * len(shown)]
        for job in comparison.unfinished
    ]
    return table(["scenario", "training rows", "runs", *header], rows)


def _rows(size: int | None) -> str:
    return formatting.count(size)


def _differences(comparison: Comparison) -> Iterator[str]:
    references = list(dict.fromkeys(each.reference for each in comparison.differences))
    for reference in references:
        found = [each for each in comparison.differences if each.reference == reference]
        yield f"## Against {escaped(reference)}"
        yield _difference_table([each for each in found if each.measure == SCORE])
        by_task = [each for each in found if each.measure != SCORE]
        if by_task:
            yield folded("By task", _difference_table(by_task))


def _difference_table(found: Sequence[Difference]) -> str:
    rows = [
        [
            escaped(each.scenario),
            escaped(
                words.MEASURE[each.measure] if each.task is None else f"{each.task}, {words.MEASURE[each.measure]}"
            ),
            words.signed(each.value),
            words.interval(each),
            words.p_value(each.p_adjusted),
            words.verdict(each),
        ]
        for each in found
    ]
    return table(["scenario", "measure", "difference", "95 % interval", "p, adjusted", "verdict"], rows, left=2)


def _sharing(comparison: Comparison) -> Iterator[str]:
    if not comparison.sharing:
        return
    rows = [
        [
            escaped(row.scenario),
            escaped(row.task),
            row.measure,
            row.alone,
            row.together,
            words.signed(row.difference.value),
            words.interval(row.difference),
            words.p_value(row.difference.p_adjusted),
            words.verdict(row.difference),
        ]
        for row in words.sharing(comparison)
    ]
    header = ["scenario", "task", "measure", "alone", "shared", "difference", "95 % interval", "p, adjusted", "verdict"]
    yield from ("## Sharing the encoder", words.SHARING, table(header, rows, left=3))


def _left_out(comparison: Comparison) -> Iterator[str]:
    if not (comparison.unfinished or comparison.unreadable or comparison.notes):
        return
    yield "## Not in the table"
    lines = [f"- {escaped(line)}" for line in words.left_out(comparison)]
    yield "\n".join(lines)

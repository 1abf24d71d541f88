"""The diagnosis as Markdown, CSV and JSON: in words first, then the figures, then how they were found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mtl.base import formatting
from mtl.base.files import write_json, write_text_atomically
from mtl.data.problems import plural
from mtl.diagnosis.data_need import LEAST_CLASS_ROWS, ClassNeed
from mtl.diagnosis.task import Duplicate, TaskDiagnosis
from mtl.evaluation.predictions import confusion_examples, write_csv
from mtl.evaluation.run_metrics import plain
from mtl.evaluation.run_summary import frequent_confusions
from mtl.reporting.markdown import code, escaped, link
from mtl.reporting.tables import Table

SURE = 0.8
"""From this share of the bootstrap samples on the class with the largest gain is named alone."""
_MOST_NAMED = 5
MOST_SHOWN = 10
"""Suspects, confusions and duplicates in the report; the CSV files have all."""
_SENTENCE = 140  # characters of a text in the report
_KINDS = ("leak", "different labels", "repeated")  # of duplicates, the worst first
_HOW = """\
- **Data need.** Heads (logistic regression) are fitted to embeddings of the training rows, each time with the rows of
  one class thinned and the others whole, and tested on rows that they have not seen: a fold of the training rows that
  is held out, and the validation rows; the test rows are not used. The curve through these points, read further, gives
  the gain of more rows; the interval is the middle 90 % of bootstrap samples of draws and rows. A class is recommended
  only where its gain is also above what chance gives the luckiest of all classes (max-T over the samples, 5 %). With
  more than 12 classes only the thinned class's part of a head is fitted again, and gains come out slightly too small.
- **Confusions and suspects** come from cross-validated heads on the embedding and on inner layers of the encoder, so no
  row is judged by a head that has seen its label. Suspects are ranked by the probability of the label that they have
  (confident learning, Northcutt et al. 2021). A suspect may as well be a correct row that is hard to tell.
- **The encoder** is the one that training started from: a trained one has seen the training rows, finds them easy, and
  cannot say what new rows would bring. Gains are those of heads on it; where the encoder is trained too, the order of
  the classes is what to rely on rather than the size of a gain."""


def sentences(diagnosis: TaskDiagnosis) -> list[str]:
    """Return what was found about a task, the most useful first, a sentence or two each."""
    parts = (_needs_in_words, _confused, _duplicates_in_words, _suspects_in_words)
    return [sentence for part in parts for sentence in part(diagnosis)]


def _needs_in_words(diagnosis: TaskDiagnosis) -> Iterator[str]:
    """Yield what to collect: one class, several that cannot be told apart, or that the evidence supports none."""
    known = [need for need in diagnosis.needs if need.enough]
    few = [need for need in diagnosis.needs if not need.enough]
    if supported := [need for need in known if need.supported]:
        yield from _recommended(supported, diagnosis.more)
    elif known:
        luck = f"chance alone may give the luckiest of {len(known)} classes"
        yield (
            f"the evidence supports collecting no class in particular: the largest gain from {diagnosis.more} more "
            f"examples is {_gain(known[0])} for {known[0].label!r}, which "
            f"{'may be nothing' if known[0].low <= 0 else luck}"
        )
    if len(few) <= _MOST_NAMED:
        for need in few:
            rows = plural(need.rows, "training row")
            yield f"{need.label!r} has {rows}, too few to tell: collect at least {LEAST_CLASS_ROWS}"
        return
    names = ", ".join(f"{need.label!r} ({need.rows})" for need in few[:_MOST_NAMED])
    yield (
        f"{len(few)} classes have fewer than {LEAST_CLASS_ROWS} training rows, too few to tell: collect at least "
        f"{LEAST_CLASS_ROWS} of each: {names} and {len(few) - _MOST_NAMED} more, see data_need"
    )


def _recommended(supported: list[ClassNeed], more: int) -> Iterator[str]:
    first, *others = supported
    yield (
        f"collect more {first.label!r}: {more} more examples are worth about {_gain(first)}; "
        f"it has {plural(first.rows, 'training row')}"
    )
    rivals = [need for need in others if need.high > first.low and need.best >= 1 - SURE]
    if first.best < SURE and rivals:
        near = ", ".join(f"{need.label!r} ({_gain(need)})" for need in rivals)
        yield f"nearly as much may come from {near}: the figures do not tell them apart for certain"


def _gain(need: ClassNeed) -> str:
    return f"{need.gain:+.3f} macro-F1 ({need.low:.3f} to {need.high:.3f})"


def _confused(diagnosis: TaskDiagnosis) -> Iterator[str]:
    for confusion in frequent_confusions(diagnosis.report, most=1):
        yield (
            f"most often confused: {confusion.label!r} taken for {confusion.predicted!r}, {confusion.count:,} of "
            f"{confusion.support:,} training rows ({formatting.share(confusion.count, confusion.support)}) "
            "when a head has not seen them"
        )


def _duplicates_in_words(diagnosis: TaskDiagnosis) -> Iterator[str]:
    leaks, different, repeated = map(diagnosis.of_kind, _KINDS)
    if leaks:
        rows = len({pair.second.source for pair in leaks})
        yield (
            f"{plural(rows, 'validation or test row')} with the text of a training row, or nearly so: "
            "the figures on them are too good"
        )
    for pairs, labels in ((different, "different labels"), (repeated, "the same label")):
        if pairs:
            yield f"{plural(len(pairs), 'pair')} of training rows with nearly the same text and {labels}"
    if not diagnosis.duplicates:
        yield "no near-duplicates"


def _suspects_in_words(diagnosis: TaskDiagnosis) -> Iterator[str]:
    count, rows = diagnosis.suspects.count, diagnosis.sizes["train"]
    if not count:
        yield "no label looks wrong"
        return
    yield (
        f"{plural(count, 'label')} of {rows:,} may be wrong or hard to tell ({formatting.share(count, rows)}): "
        f"review suspects_{diagnosis.task}.csv from the top"
    )


def write_csv_files(folder: Path, diagnosis: TaskDiagnosis) -> list[Path]:
    """Write the suspects, confusions, duplicates and data need of a task into a folder, and return the files."""
    files = {
        "suspects": _suspect_rows,
        "confusions": _confusion_rows,
        "duplicates": _duplicate_rows,
        "data_need": _need_rows,
    }
    paths = [folder / f"{name}_{diagnosis.task}.csv" for name in files]
    for path, rows in zip(paths, files.values(), strict=True):
        write_csv(path, rows(diagnosis))
    return paths


def _suspect_rows(diagnosis: TaskDiagnosis) -> Iterator[Sequence[str | float]]:
    yield "rank", "text", "label", "suggested label", "score", "suspected", "source"
    for rank, (row, suggested, score) in enumerate(diagnosis.ranked_suspects(), start=1):
        suspected = "yes" if rank <= diagnosis.suspects.count else "no"
        yield rank, row.text, row.label, suggested, round(score, 6), suspected, row.source


def _confusion_rows(diagnosis: TaskDiagnosis) -> Iterator[Sequence[str | float]]:
    yield "label", "taken for", "rows", "of", "share", "example", "source"
    examples = confusion_examples(diagnosis.unseen, most=1)
    for pair in frequent_confusions(diagnosis.report, most=len(diagnosis.unseen.texts)):
        example = examples[pair.label, pair.predicted][0]
        share = round(pair.count / pair.support, 4)
        yield pair.label, pair.predicted, pair.count, pair.support, share, example.text, example.source


def _duplicate_rows(diagnosis: TaskDiagnosis) -> Iterator[Sequence[str | float]]:
    yield "kind", "same text", "cosine", "split", "label", "text", "source", "split 2", "label 2", "text 2", "source 2"
    for pair in diagnosis.duplicates:
        rows = ((row.split, row.label, row.text, row.source) for row in (pair.first, pair.second))
        yield pair.kind, "yes" if pair.same_text else "no", round(pair.cosine, 4), *chain.from_iterable(rows)


def _need_rows(diagnosis: TaskDiagnosis) -> Iterator[Sequence[str | float]]:
    yield (
        *("class", "training rows", "tested rows", "more rows"),
        *("macro-F1 gain", "low", "high", "own F1 gain", "best", "supported"),
    )
    for need in diagnosis.needs:
        rounded = (round(figure, 4) for figure in (need.gain, need.low, need.high, need.own_gain, need.best))
        yield need.label, need.rows, need.tested, diagnosis.more, *rounded, "yes" if need.supported else "no"


def write_findings(path: Path, facts: Mapping[str, object], diagnoses: Sequence[TaskDiagnosis]) -> None:
    """Write all figures of each task as JSON, below the facts that the diagnosis was made from."""
    write_json(path, {**facts, "tasks": {diagnosis.task: _findings(diagnosis) for diagnosis in diagnoses}})


def _findings(diagnosis: TaskDiagnosis) -> dict[str, Any]:
    return {
        "words": sentences(diagnosis),
        "rows": diagnosis.sizes,
        "more": diagnosis.more,
        "data_need": [
            {
                "class": need.label,
                "rows": need.rows,
                "tested": need.tested,
                "enough": need.enough,
                "macro_f1_gain": need.gain,
                "low": need.low,
                "high": need.high,
                "supported": need.supported,
                "best": need.best,
                "own_f1_gain": need.own_gain,
                "curve": {
                    "rows": need.curve_rows.tolist(),
                    "own_f1": _band(need.curve),
                    "macro_f1": _band(need.macro),
                },
            }
            for need in diagnosis.needs
        ],
        "out_of_sample": plain(diagnosis.report),
        "suspects": diagnosis.suspects.count,
        "duplicates": {kind: len(diagnosis.of_kind(kind)) for kind in _KINDS},
    }


def _band(band: np.ndarray) -> dict[str, list[float]]:
    return dict(zip(("mean", "low", "high"), band.tolist(), strict=True))


def write_diagnosis(
    path: Path, facts: Mapping[str, str], diagnoses: Sequence[TaskDiagnosis], files: Mapping[str, Sequence[Path]]
) -> None:
    """Write the diagnosis as Markdown, with the other ``files`` of each task, which are in the same folder."""
    blocks = ["# Diagnosis", "\n".join(f"- **{escaped(name)}**: {escaped(fact)}" for name, fact in facts.items())]
    for diagnosis in diagnoses:
        blocks += _task(diagnosis, files[diagnosis.task])
    write_text_atomically(path, "\n\n".join([*blocks, "## How this was found", _HOW]) + "\n")


def _task(diagnosis: TaskDiagnosis, files: Sequence[Path]) -> Iterator[str]:
    yield f"## Task {escaped(diagnosis.task)}"
    yield "\n".join(f"- {escaped(sentence)}" for sentence in sentences(diagnosis))
    yield from _table(_need_table(diagnosis))
    yield from (f"![learning curves]({path.name})" for path in files if path.suffix in (".png", ".svg"))
    yield from _table(_confusion_table(diagnosis))
    if diagnosis.duplicates:
        counts = ", ".join(f"{formatting.count(len(diagnosis.of_kind(kind)))} {kind}" for kind in _KINDS)
        worst = [pair for kind in _KINDS for pair in diagnosis.of_kind(kind)][:MOST_SHOWN]
        yield from (f"**Near-duplicates** ({counts})", "\n".join(map(_duplicate, worst)))
    yield from _table(_suspect_table(diagnosis))
    yield "\n".join(f"- {link(path.name)}" for path in files)


def _table(table: Table) -> Iterator[str]:
    if table.rows:
        yield from (f"**{table.title}**{table.note}", table.to_markdown())


def _need_table(diagnosis: TaskDiagnosis) -> Table:
    rows = [
        [
            need.label,
            formatting.count(need.rows),
            f"{need.gain:+.3f}",
            f"{need.low:+.3f} to {need.high:+.3f}",
            f"{need.own_gain:+.3f}",
            f"{need.best:.0%} of samples",
        ]
        if need.enough
        else [need.label, formatting.count(need.rows), "too few rows to tell", "", "", ""]
        for need in diagnosis.needs
    ]
    columns = ["class", "rows", "macro-F1", "90 % interval", "own F1", "largest gain in"]
    return Table(f"What {diagnosis.more} more rows of a class would bring", columns, rows)


def _confusion_table(diagnosis: TaskDiagnosis) -> Table:
    examples = confusion_examples(diagnosis.unseen, most=1)
    rows = [
        [
            pair.label,
            pair.predicted,
            formatting.shortened(examples[pair.label, pair.predicted][0].text, _SENTENCE),
            formatting.count(pair.count),
            formatting.share(pair.count, pair.support),
        ]
        for pair in frequent_confusions(diagnosis.report, most=MOST_SHOWN)
    ]
    note = " (training rows, each judged by heads that have not seen it)"
    return Table("Confused classes", ["label", "taken for", "example", "rows", "of the label"], rows, note, texts=3)


def _suspect_table(diagnosis: TaskDiagnosis) -> Table:
    most = min(MOST_SHOWN, diagnosis.suspects.count)
    rows = [
        [formatting.shortened(row.text, _SENTENCE), row.label, suggested, row.source, formatting.score(score)]
        for row, suggested, score in islice(diagnosis.ranked_suspects(), most)
    ]
    return Table("Labels to review first", ["text", "label", "suggested", "source", "p(label)"], rows, texts=4)


def _duplicate(pair: Duplicate) -> str:
    rows = "; ".join(
        f"“{escaped(formatting.shortened(row.text, _SENTENCE))}” ({escaped(row.label)}, {code(row.source)})"
        for row in (pair.first, pair.second)
    )
    return f"- {pair.kind}, cosine {formatting.score(pair.cosine)}: {rows}"

"""The diagnosis as Markdown, CSV and JSON: in words first, then the figures, then how they were found."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl.base import formatting
from mtl.base.files import replacing, write_json, write_text_atomically
from mtl.data.problems import plural
from mtl.diagnosis.data_need import LEAST_ROWS, ClassNeed
from mtl.diagnosis.task import Duplicate, TaskDiagnosis, suspected_rows
from mtl.evaluation.predictions import confusion_examples, guarded
from mtl.evaluation.run_metrics import plain
from mtl.evaluation.run_summary import frequent_confusions
from mtl.reporting.markdown import code, escaped, link, table

SURE = 0.8
"""From this share of the bootstrap samples on the class with the largest gain is named alone."""
_MOST_NAMED = 5


def sentences(diagnosis: TaskDiagnosis) -> list[str]:
    """Return what was found about a task, the most useful first, a sentence or two each."""
    return [
        *need_sentences(diagnosis),
        *_confused(diagnosis),
        *_duplicates_found(diagnosis),
        *_suspects_found(diagnosis),
    ]


def need_sentences(diagnosis: TaskDiagnosis) -> list[str]:
    """Return what to collect: one class, several that cannot be told apart, or that the evidence supports none."""
    known = [need for need in diagnosis.needs if need.enough]
    supported = [need for need in known if need.supported]
    sentences = list(_recommended(supported, diagnosis.more)) if supported else []
    if known and not supported:
        sentences.append(
            f"the evidence supports collecting no class in particular: the largest gain from {diagnosis.more} more "
            f"examples is {_gain(known[0])} for {known[0].label!r}, which {_chance(known)}"
        )
    return [*sentences, *_too_few([need for need in diagnosis.needs if not need.enough])]


def _chance(known: Sequence[ClassNeed]) -> str:
    if known[0].low <= 0:
        return "may be nothing"
    return f"chance alone may give the luckiest of {len(known)} classes"


def _too_few(few: Sequence[ClassNeed]) -> Iterator[str]:
    if len(few) <= _MOST_NAMED:
        for need in few:
            rows = plural(need.rows, "training row")
            yield f"{need.label!r} has {rows}, too few to tell: collect at least {LEAST_ROWS}"
        return
    names = ", ".join(f"{need.label!r} ({need.rows})" for need in few[:_MOST_NAMED])
    yield (
        f"{len(few)} classes have fewer than {LEAST_ROWS} training rows, too few to tell: collect at least "
        f"{LEAST_ROWS} of each: {names} and {len(few) - _MOST_NAMED} more, see data_need"
    )


def _recommended(worth: list[ClassNeed], more: int) -> Iterator[str]:
    first, *others = worth
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


def _duplicates_found(diagnosis: TaskDiagnosis) -> Iterator[str]:
    leaks = diagnosis.of_kind("leak")
    if leaks:
        rows = len({each.second.source for each in leaks})
        yield (
            f"{plural(rows, 'validation or test row')} with the text of a training row, or nearly so: "
            "the figures on them are too good"
        )
    different = diagnosis.of_kind("different labels")
    if different:
        yield f"{plural(len(different), 'pair')} of training rows with nearly the same text and different labels"
    repeated = diagnosis.of_kind("repeated")
    if repeated:
        yield f"{plural(len(repeated), 'pair')} of training rows with nearly the same text and the same label"
    if not diagnosis.duplicates:
        yield "no near-duplicates"


def _suspects_found(diagnosis: TaskDiagnosis) -> Iterator[str]:
    count, rows = diagnosis.suspects.count, diagnosis.sizes["train"]
    if not count:
        yield "no label looks wrong"
        return
    yield (
        f"{plural(count, 'label')} of {rows:,} may be wrong or hard to tell ({formatting.share(count, rows)}): "
        f"review suspects_{diagnosis.task}.csv from the top"
    )


_ALL = 2**31


def write_csv_files(folder: Path, diagnosis: TaskDiagnosis) -> list[Path]:
    """Write the suspects, confusions and duplicates of a task, and return the files.

    Args:
        folder: Where to write.
        diagnosis: What was found.
    """
    writers = {
        "suspects": _suspect_rows,
        "confusions": _confusion_rows,
        "duplicates": _duplicate_rows,
        "data_need": _needs,
    }
    paths = []
    for name, rows in writers.items():
        paths.append(folder / f"{name}_{diagnosis.task}.csv")
        _write(paths[-1], rows(diagnosis))
    return paths


def write_findings(path: Path, facts: Mapping[str, object], diagnoses: Sequence[TaskDiagnosis]) -> None:
    """Write all figures as JSON.

    Args:
        path: The file to write or to replace.
        facts: What the diagnosis was made from.
        diagnoses: That of each task.
    """
    write_json(path, {**facts, "tasks": {each.task: _findings(each) for each in diagnoses}})


def _write(path: Path, rows: Iterable[Sequence[str | float]]) -> None:
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        for row in rows:
            writer.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in row])


def _suspect_rows(diagnosis: TaskDiagnosis) -> Iterable[Sequence[str | float]]:
    yield "rank", "text", "label", "suggested label", "score", "suspected", "source"
    found, unseen = diagnosis.suspects, diagnosis.unseen
    for rank, (row, score, other) in enumerate(
        zip(found.order.tolist(), found.scores.tolist(), found.suggested.tolist(), strict=True), start=1
    ):
        suspected = "yes" if rank <= found.count else "no"
        text, label, source = unseen.texts[row], unseen.labels[row], unseen.sources[row]
        yield rank, text, label, unseen.classes[other], round(score, 6), suspected, source


def _confusion_rows(diagnosis: TaskDiagnosis) -> Iterable[Sequence[str | float]]:
    yield "label", "taken for", "rows", "of", "share", "example", "source"
    examples = confusion_examples(diagnosis.unseen, most=1)
    for each in frequent_confusions(diagnosis.report, most=_ALL):
        example = examples[each.label, each.predicted][0]
        share = round(each.count / each.support, 4)
        yield each.label, each.predicted, each.count, each.support, share, example.text, example.source


def _duplicate_rows(diagnosis: TaskDiagnosis) -> Iterable[Sequence[str | float]]:
    yield "kind", "same text", "cosine", "split", "label", "text", "source", "split 2", "label 2", "text 2", "source 2"
    for each in diagnosis.duplicates:
        one, two = each.first, each.second
        same = "yes" if each.same_text else "no"
        yield (
            *(each.kind, same, round(each.cosine, 4)),
            *(one.split, one.label, one.text, one.source),
            *(two.split, two.label, two.text, two.source),
        )


def _needs(diagnosis: TaskDiagnosis) -> Iterable[Sequence[str | float]]:
    yield (
        *("class", "training rows", "tested rows", "more rows"),
        *("macro-F1 gain", "low", "high", "own F1 gain", "best", "supported"),
    )
    for each in diagnosis.needs:
        figures = (each.gain, each.low, each.high, each.own_gain, each.best)
        rounded = (round(figure, 4) for figure in figures)
        yield each.label, each.rows, each.tested, diagnosis.more, *rounded, "yes" if each.supported else "no"


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
        "duplicates": {kind: len(diagnosis.of_kind(kind)) for kind in ("leak", "different labels", "repeated")},
    }


def _band(band: np.ndarray) -> dict[str, list[float]]:
    return dict(zip(("mean", "low", "high"), band.tolist(), strict=True))


MOST_SHOWN = 10
"""Suspects, confusions and duplicates in the report; the CSV files have all."""
_SENTENCE = 140

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


def write_diagnosis(
    path: Path, facts: Mapping[str, str], diagnoses: Sequence[TaskDiagnosis], files: Mapping[str, Sequence[Path]]
) -> None:
    """Write the diagnosis as Markdown, whole or not at all.

    Args:
        path: The file to write or to replace.
        facts: What the diagnosis was made from.
        diagnoses: That of each task.
        files: The other files of each task, in the same folder; pictures are shown.
    """
    blocks = ["# Diagnosis", "\n".join(f"- **{escaped(name)}**: {escaped(fact)}" for name, fact in facts.items())]
    for diagnosis in diagnoses:
        blocks += _task(diagnosis, files[diagnosis.task])
    write_text_atomically(path, "\n\n".join([*blocks, "## How this was found", _HOW]) + "\n")


def _task(diagnosis: TaskDiagnosis, files: Sequence[Path]) -> Iterator[str]:
    yield f"## Task {escaped(diagnosis.task)}"
    yield "\n".join(f"- {escaped(sentence)}" for sentence in sentences(diagnosis))
    yield f"**What {diagnosis.more} more rows of a class would bring**"
    header = ["class", "rows", "macro-F1", "90 % interval", "own F1", "largest gain in"]
    yield table(header, [_need(need) for need in diagnosis.needs])
    yield from (f"![learning curves]({path.name})" for path in files if path.suffix in (".png", ".svg"))
    yield from _confusions(diagnosis)
    yield from _duplicates(diagnosis)
    yield from _suspects(diagnosis)
    yield "\n".join(f"- {link(path.name)}" for path in files)


def _need(need: ClassNeed) -> list[str]:
    if not need.enough:
        return [escaped(need.label), formatting.count(need.rows), "too few rows to tell", "", "", ""]
    interval = f"{need.low:+.3f} to {need.high:+.3f}"
    best = f"{need.best:.0%} of samples"
    return [
        escaped(need.label),
        formatting.count(need.rows),
        f"{need.gain:+.3f}",
        interval,
        f"{need.own_gain:+.3f}",
        best,
    ]


def _confusions(diagnosis: TaskDiagnosis) -> Iterator[str]:
    confusions = frequent_confusions(diagnosis.report, most=MOST_SHOWN)
    if not confusions:
        return
    examples = confusion_examples(diagnosis.unseen, most=1)
    yield "**Confused classes** (training rows, each judged by heads that have not seen it)"
    rows = [
        [
            escaped(each.label),
            escaped(each.predicted),
            _sentence(examples[each.label, each.predicted][0].text),
            formatting.count(each.count),
            formatting.share(each.count, each.support),
        ]
        for each in confusions
    ]
    yield table(["label", "taken for", "example", "rows", "of the label"], rows, left=3)


def _duplicates(diagnosis: TaskDiagnosis) -> Iterator[str]:
    if not diagnosis.duplicates:
        return
    kinds = ("leak", "different labels", "repeated")
    worst = [each for kind in kinds for each in diagnosis.of_kind(kind)][:MOST_SHOWN]
    counts = ", ".join(f"{formatting.count(len(diagnosis.of_kind(kind)))} {kind}" for kind in kinds)
    yield f"**Near-duplicates** ({counts})"
    yield "\n".join(_duplicate(each) for each in worst)


def _duplicate(each: Duplicate) -> str:
    rows = "; ".join(
        f"“{_sentence(row.text)}” ({escaped(row.label)}, {code(row.source)})" for row in (each.first, each.second)
    )
    return f"- {each.kind}, cosine {formatting.score(each.cosine)}: {rows}"


def _suspects(diagnosis: TaskDiagnosis) -> Iterator[str]:
    rows = suspected_rows(diagnosis, MOST_SHOWN)
    if not rows:
        return
    unseen, found = diagnosis.unseen, diagnosis.suspects
    yield "**Labels to review first**"
    cells = [
        [
            _sentence(unseen.texts[row]),
            escaped(unseen.labels[row]),
            escaped(unseen.classes[int(found.suggested[at])]),
            escaped(unseen.sources[row]),
            formatting.score(float(found.scores[at])),
        ]
        for at, row in enumerate(rows)
    ]
    yield table(["text", "label", "suggested", "source", "p(label)"], cells, left=4)


def _sentence(text: str) -> str:
    return escaped(formatting.shortened(text, _SENTENCE))

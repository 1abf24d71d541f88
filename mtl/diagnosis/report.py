"""The diagnosis as Markdown: in words first, then the figures, then how they were found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mtl.base import formatting
from mtl.base.files import write_text_atomically
from mtl.diagnosis.data_need import ClassNeed
from mtl.diagnosis.task import Duplicate, TaskDiagnosis, suspected_rows
from mtl.diagnosis.words import sentences
from mtl.evaluation.predictions import confusion_examples
from mtl.evaluation.summary import frequent_confusions
from mtl.reporting.markdown import code, escaped, link, table

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

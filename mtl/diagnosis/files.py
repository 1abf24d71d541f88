"""What a diagnosis leaves for spreadsheets and programs: CSV files, whose cells no spreadsheet runs, and JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl.base.files import replacing, write_json
from mtl.diagnosis.task import TaskDiagnosis
from mtl.diagnosis.words import sentences
from mtl.evaluation.predictions import confusion_examples, guarded
from mtl.evaluation.summary import frequent_confusions

_ALL = 2**31


def write_csv_files(folder: Path, diagnosis: TaskDiagnosis) -> list[Path]:
    """Write the suspects, confusions and duplicates of a task, and return the files.

    Args:
        folder: Where to write.
        diagnosis: What was found.
    """
    writers = {"suspects": _suspects, "confusions": _confusions, "duplicates": _duplicates, "data_need": _needs}
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


def _suspects(diagnosis: TaskDiagnosis) -> Iterable[Sequence[str | float]]:
    yield "rank", "text", "label", "suggested label", "score", "suspected", "source"
    found, unseen = diagnosis.suspects, diagnosis.unseen
    for rank, (row, score, other) in enumerate(
        zip(found.order.tolist(), found.scores.tolist(), found.suggested.tolist(), strict=True), start=1
    ):
        suspected = "yes" if rank <= found.count else "no"
        text, label, source = unseen.texts[row], unseen.labels[row], unseen.sources[row]
        yield rank, text, label, unseen.classes[other], round(score, 6), suspected, source


def _confusions(diagnosis: TaskDiagnosis) -> Iterable[Sequence[str | float]]:
    yield "label", "taken for", "rows", "of", "share", "example", "source"
    examples = confusion_examples(diagnosis.unseen, most=1)
    for each in frequent_confusions(diagnosis.report, most=_ALL):
        example = examples[each.label, each.predicted][0]
        share = round(each.count / each.support, 4)
        yield each.label, each.predicted, each.count, each.support, share, example.text, example.source


def _duplicates(diagnosis: TaskDiagnosis) -> Iterable[Sequence[str | float]]:
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
        "out_of_sample": diagnosis.report.to_dict(),
        "suspects": diagnosis.suspects.count,
        "duplicates": {kind: len(diagnosis.of_kind(kind)) for kind in ("leak", "different labels", "repeated")},
    }


def _band(band: np.ndarray) -> dict[str, list[float]]:
    return dict(zip(("mean", "low", "high"), band.tolist(), strict=True))

"""SVG files beside a report: the same for the same values, with every data text in them as it is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtl.base.formatting import one_line
from mtl.evaluation.records import (
    CalibrationReport,
    CalibrationScores,
    ClassReport,
    EpochFigures,
    ReliabilityBin,
    TaskReport,
)
from mtl.reporting.charts import learning_curve
from mtl.reporting.page import Chart
from mtl.reporting.run_charts import (
    MOST_IN_MATRIX,
    class_bars,
    confusion,
    draw_run,
    most_confused,
    reliability,
    training,
)
from mtl.reporting.svg import write_svg
from tests.support.commands import outside

NASTY = ("a_$x^2$ <b>", "_hidden & co", '"quoted" \\frac{', "中文 😀")
_SVG = "{http://www.w3.org/2000/svg}"


def report(labels: tuple[str, ...], support: int = 20) -> TaskReport:
    """Return figures in which the last class has no rows."""
    classes = len(labels)
    confusion = np.full((classes, classes), 2) + np.eye(classes, dtype=int) * support
    confusion[-1] = 0
    per_class = {
        label: ClassReport(0.5, 0.8, 0.6, int(row.sum())) for label, row in zip(labels, confusion, strict=True)
    }
    return TaskReport(0.7, 0.5, 0.8, 0.6, 0.5, 0.8, 0.6, per_class, confusion.tolist())


def curves() -> list[Chart]:
    rows = [{"x": x, "y": x / 40, "low": x / 80, "high": x / 30} for x in (5, 10, 20)]
    with_rows = [learning_curve(name, rows, "training rows", "F1", "band: 95 %") for name in NASTY]
    return [*with_rows, learning_curve("without", [], "training rows", "F1", "")]


BINS = [ReliabilityBin(0.0, 0.5, 0, 0.0, 0.0), ReliabilityBin(0.5, 1.0, 10, 0.8, 0.6)]
EPOCHS = [EpochFigures(at, 1 / at, {NASTY[0]: 0.1 * at, NASTY[1]: 0.5}) for at in (1, 2, 3)]
CHARTS = {
    "confusion": [confusion(report(NASTY))],
    "class_bars": [class_bars(report(NASTY))],
    "reliability": [reliability({NASTY[0]: BINS, NASTY[1]: BINS, **dict.fromkeys(NASTY[2:], BINS)})],
    "learning_curves": curves(),
    "training": list(training([EpochFigures(1, 0.5, dict.fromkeys(NASTY, 0.5)), *EPOCHS[1:]])),
}


def root(path: Path) -> ET.Element:
    return ET.parse(path).getroot()  # noqa: S314 - ours


def texts(path: Path) -> list[str]:
    """Return the texts of an SVG file."""
    return ["".join(each.itertext()) for each in root(path).iter(f"{_SVG}text")]


def marks(path: Path, kind: str) -> list[str]:
    """Return the descriptions of the marks of a kind, such as ``bar``."""
    found = root(path).iter()
    return [each.attrib["aria-label"] for each in found if each.get("aria-roledescription") == kind]


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_values_give_the_same_bytes_and_texts_stand_as_they_are(name: str, tmp_path: Path) -> None:
    for file in ("one.svg", "two.svg"):
        write_svg(tmp_path / file, CHARTS[name], columns=2)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]
    whole = " ".join(texts(tmp_path / "one.svg"))
    assert all(label in whole for label in NASTY)
    assert CHARTS[name][0].title in whole


def test_a_new_process_gives_the_same_bytes(tmp_path: Path) -> None:
    code = "from tests.unit.reporting.test_run_charts import *; import sys;write_svg(sys.argv[1], CHARTS['class_bars'])"
    write_svg(tmp_path / "a.svg", CHARTS["training"])
    write_svg(tmp_path / "b.svg", CHARTS["class_bars"])
    subprocess.run([sys.executable, "-c", code, tmp_path / "c.svg"], env=outside(), check=True)
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "c.svg").read_bytes()


def test_bars_have_a_mark_for_each_score_and_the_rows_of_each_class(tmp_path: Path) -> None:
    write_svg(tmp_path / "a.svg", CHARTS["class_bars"])
    assert len(marks(tmp_path / "a.svg", "bar")) == 3 * len(NASTY)
    assert {"a_$x^2$ <b> (28)", "中文 😀 (0)", "precision", "recall", "F1"} <= set(texts(tmp_path / "a.svg"))


def test_the_cells_of_a_confusion_matrix(tmp_path: Path) -> None:
    counts = [[1234, 5, 0], [0, 7, 8], [0, 0, 0]]
    per_class = {name: ClassReport(0, 0, 0, sum(row)) for name, row in zip("abc", counts, strict=True)}
    write_svg(tmp_path / "a.svg", [confusion(TaskReport(0, 0, 0, 0, 0, 0, 0, per_class, counts))])
    found = texts(tmp_path / "a.svg")
    assert {"1,234", "5", "7", "8", "no rows", "a (1,239)", "b (15)", "c (0)"} <= set(found)
    assert "0" not in found
    assert len(marks(tmp_path / "a.svg", "rect mark")) == 9


def test_of_many_classes_the_most_confused_ones_are_drawn(tmp_path: Path) -> None:
    counts = np.diag(np.full(MOST_IN_MATRIX + 3, 9))
    counts[0, 1] = counts[-1, 2] = 4
    assert most_confused(counts, most=4).tolist() == [0, 1, 2, len(counts) - 1]
    per_class = {f"class {at}": ClassReport(0, 0, 0, int(row.sum())) for at, row in enumerate(counts)}
    chart = confusion(TaskReport(0, 0, 0, 0, 0, 0, 0, per_class, counts.tolist()))
    assert chart.summary.endswith(f"The {MOST_IN_MATRIX} of {len(counts)} classes with the most wrong rows.")
    write_svg(tmp_path / "a.svg", [chart])
    assert sum(each.startswith("class") and each.endswith(")") for each in texts(tmp_path / "a.svg")) == MOST_IN_MATRIX


def test_training_names_the_best_epoch_of_each_task() -> None:
    loss, scores = training(EPOCHS)
    assert loss.title == "Training loss"
    assert scores.summary == f"{NASTY[0]}: best 0.300 in epoch 3; {NASTY[1]}: best 0.500 in epoch 1."


def test_one_epoch_without_validation(tmp_path: Path) -> None:
    write_svg(tmp_path / "a.svg", list(training([EpochFigures(1, 0.5)])))
    assert "Training loss" in texts(tmp_path / "a.svg")
    assert "Validation macro-F1" not in texts(tmp_path / "a.svg")


@pytest.mark.parametrize("epochs", [1, 2, 3, 8, 30])
def test_every_tick_of_the_epochs_is_another_number(tmp_path: Path, epochs: int) -> None:
    figures = [EpochFigures(at, 0.1 + 0.5 / at) for at in range(1, epochs + 1)]
    write_svg(tmp_path / "a.svg", list(training(figures)))
    ticks = [text for text in texts(tmp_path / "a.svg") if text.isdigit()]
    assert ticks == sorted(set(ticks), key=int)
    assert {"1", str(epochs)} <= set(ticks) or epochs == 30


def test_curves_without_rows_say_so(tmp_path: Path) -> None:
    write_svg(tmp_path / "a.svg", curves(), columns=3, width=230)
    assert texts(tmp_path / "a.svg").count("no figures") == 1


def test_all_pictures_of_a_run(tmp_path: Path) -> None:
    per_class = {"a": ClassReport(0.5, 1.0, 2 / 3, 1), "b": ClassReport(0.0, 0.0, 0.0, 1)}
    counted = TaskReport(0.5, 0.25, 0.5, 1 / 3, 0.25, 0.5, 1 / 3, per_class, [[1, 0], [1, 0]])
    scores = CalibrationScores(ece=0.35, nll=0.5, brier=0.4, accuracy=0.5, macro_f1=1 / 3)
    sure, calibrated = [ReliabilityBin(0.0, 1.0, 2, 0.85, 0.5)], [ReliabilityBin(0.0, 1.0, 2, 0.6, 0.5)]
    figures = replace(counted, calibration=CalibrationReport(scores, scores, 1.0, 0.0, sure, sure))
    mended = replace(counted, calibration=CalibrationReport(scores, scores, 1.4, 0.0, calibrated, sure))
    reports = {"topic": {"val": figures, "test": mended}, "mood": {"val": figures}, "none": {}}
    pictures = draw_run(tmp_path, reports, [EpochFigures(1, 0.5)])
    kinds = ("classes", "confusion", "reliability")
    names = [f"{task}_{kind}" for task in ("topic_test", "mood_val") for kind in kinds]
    assert {name: picture.path for name, picture in pictures.items()} == {
        name: f"figures/{name}.svg" for name in (*names, "training")
    }
    paths = [picture.path for picture in pictures.values()]
    assert sorted(paths) == sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.svg"))
    assert "Expected calibration error: 0.350." in " ".join(texts(tmp_path / "figures" / "mood_val_reliability.svg"))
    topic = texts(tmp_path / "figures" / "topic_test_reliability.svg")
    assert "Expected calibration error: 0.350 before calibration," in " ".join(topic)
    assert "0.100 calibrated." in " ".join(topic)
    assert {"before calibration", "calibrated"} <= set(topic)
    assert draw_run(tmp_path, {}, []) == {}


def test_without_probabilities_there_is_no_reliability_diagram(tmp_path: Path) -> None:
    counted = TaskReport(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, {"a": ClassReport(1.0, 1.0, 1.0, 1)}, [[1]])
    assert set(draw_run(tmp_path, {"mood": {"val": counted}}, [])) == {"mood_val_classes", "mood_val_confusion"}


labels = st.text(min_size=1, max_size=25).filter(str.strip) | st.text(st.sampled_from("$\\{}_^<>&\"'a%# "), min_size=1)


@settings(max_examples=20, deadline=None)
@given(labels)
@example("$x^2")
@example("]]> <script>")
@example("\x00\ud800\ufffe")
def test_any_label_stands_in_a_well_formed_file(label: str) -> None:
    scores = ClassReport(0.5, 0.5, 0.5, 7)
    chart = class_bars(
        TaskReport(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, {label: scores, "other class": scores}, [[7, 0], [0, 7]])
    )
    with tempfile.TemporaryDirectory() as folder:
        write_svg(Path(folder) / "a.svg", [chart])
        found = texts(Path(folder) / "a.svg")
    shown = "".join("\ufffd" if each in "\ufffe\uffff" else each for each in one_line(label))
    assert len(label) > 25 or f"{shown} (7)".strip() in [text.strip() for text in found]

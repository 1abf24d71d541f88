"""Pictures: files that are the same for the same values, hold every text as it is, and leave matplotlib as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import pytest

import mtl
from mtl.evaluation.records import (
    CalibrationReport,
    CalibrationScores,
    ClassReport,
    EpochFigures,
    ReliabilityBin,
    TaskReport,
)
from mtl.evaluation.run_summary import Picture
from mtl.reporting.figures import draw_learning_curves
from mtl.reporting.figures.class_bars import draw_class_bars
from mtl.reporting.figures.confusion import MOST_CLASSES, draw_confusion, most_confused
from mtl.reporting.figures.drawing import draw_run
from mtl.reporting.figures.reliability import draw_reliability
from mtl.reporting.figures.style import shown, wrapped
from mtl.reporting.figures.training import draw_training
from tests.support.commands import outside

if TYPE_CHECKING:
    from collections.abc import Callable

NASTY = ("a_$x^2$ <b>", "_hidden & co", '"quoted" \\frac{', "中文 😀")
"""Labels that are mathematics, entries that legends leave out, markup, and glyphs that the font has not."""


def report(labels: tuple[str, ...], support: int = 20) -> TaskReport:
    """Return figures in which the last class has no rows."""
    classes = len(labels)
    confusion = np.full((classes, classes), 2) + np.eye(classes, dtype=int) * support
    confusion[-1] = 0
    per_class = {
        label: ClassReport(0.5, 0.8, 0.6, int(row.sum())) for label, row in zip(labels, confusion, strict=True)
    }
    return TaskReport(0.7, 0.5, 0.8, 0.6, 0.5, 0.8, 0.6, per_class, confusion.tolist())


def draw_bins(path: Path) -> None:
    bins = [ReliabilityBin(0.0, 0.5, 0, 0.0, 0.0), ReliabilityBin(0.5, 1.0, 10, 0.8, 0.6)]
    draw_reliability(path, {NASTY[0]: bins, NASTY[1]: bins})


def draw_curves(path: Path) -> None:
    curve = np.array([5, 10, 20]), np.array([0.2, 0.5, 0.6]), np.array([0.1, 0.4, 0.5]), np.array([0.3, 0.6, 0.7])
    nothing = np.array([5]), np.array([np.nan]), np.array([np.nan]), np.array([np.nan])
    draw_learning_curves(path, {**dict.fromkeys(NASTY, curve), "without": nothing}, interval="95 %")


def draw_epochs(path: Path) -> None:
    draw_training(path, [EpochFigures(at, 1 / at, {NASTY[0]: 0.1 * at, NASTY[1]: 0.5}) for at in (1, 2, 3)])


DRAWINGS: dict[str, Callable[[Path], None]] = {
    "confusion": lambda path: draw_confusion(path, NASTY, report(NASTY).confusion),
    "class_bars": lambda path: draw_class_bars(path, report(NASTY)),
    "reliability": draw_bins,
    "learning_curves": draw_curves,
    "training": draw_epochs,
}


def texts(path: Path) -> list[str]:
    """Return the texts of an SVG file."""
    found = ET.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")  # noqa: S314 - ours
    return ["".join(each.itertext()) for each in found]


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_values_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    for file in ("one.svg", "two.svg"):
        DRAWINGS[name](tmp_path / file)
    content = (tmp_path / "one.svg").read_bytes()
    assert content == (tmp_path / "two.svg").read_bytes()
    assert b"<dc:date>" not in content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]


@pytest.mark.parametrize("name", ["confusion", "class_bars", "learning_curves"])
def test_labels_stand_in_a_picture_as_they_are(name: str, tmp_path: Path) -> None:
    DRAWINGS[name](tmp_path / "a.svg")
    whole = " ".join(texts(tmp_path / "a.svg"))
    for label in NASTY:
        assert label in whole


def test_names_in_legends_stand_as_they_are(tmp_path: Path) -> None:
    draw_bins(tmp_path / "bins.svg")
    assert f"{NASTY[0]} (ECE 0.200)" in texts(tmp_path / "bins.svg")
    assert f"{NASTY[1]} (ECE 0.200)" in texts(tmp_path / "bins.svg")
    draw_epochs(tmp_path / "epochs.svg")
    assert f"{NASTY[0]}: best 0.300 in epoch 3" in texts(tmp_path / "epochs.svg")
    assert f"{NASTY[1]}: best 0.500 in epoch 1" in texts(tmp_path / "epochs.svg")


def test_the_cells_of_a_confusion_matrix(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "a.svg", ["a", "b", "c"], [[1234, 5, 0], [0, 7, 8], [0, 0, 0]])
    found = texts(tmp_path / "a.svg")
    assert {"1,234", "5", "7", "8", "no rows", "a (1,239)", "b (15)", "c (0)"} <= set(found)
    assert "0" not in found


def test_of_many_classes_the_most_confused_ones_are_drawn(tmp_path: Path) -> None:
    counts = np.diag(np.full(MOST_CLASSES + 3, 9))
    counts[0, 1] = counts[-1, 2] = 4
    assert most_confused(counts, most=4).tolist() == [0, 1, 2, len(counts) - 1]
    labels = [f"class {at}" for at in range(len(counts))]
    draw_confusion(tmp_path / "a.svg", labels, counts.tolist())
    found = texts(tmp_path / "a.svg")
    assert f"{MOST_CLASSES} of {len(counts)} classes: those with the most wrong rows" in found
    assert sum(each.startswith("class") and each.endswith(")") for each in found) == MOST_CLASSES


def test_one_epoch_without_validation(tmp_path: Path) -> None:
    draw_training(tmp_path / "a.svg", [EpochFigures(1, 0.5)])
    assert "Training loss" in texts(tmp_path / "a.svg")
    assert "Validation macro-F1" not in texts(tmp_path / "a.svg")


def test_a_png_is_one(tmp_path: Path) -> None:
    DRAWINGS["training"](tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_settings_of_matplotlib_take_no_part_and_stay(tmp_path: Path) -> None:
    DRAWINGS["training"](tmp_path / "plain.svg")
    with matplotlib.rc_context({"font.size": 30, "text.parse_math": True}):
        DRAWINGS["training"](tmp_path / "own.svg")
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["text.parse_math"]) == (30, True)
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "own.svg").read_bytes()


def test_texts_are_shortened_and_hold_what_xml_can() -> None:
    assert shown("word " * 20, 12) == "word word…"
    assert shown("a\ufffe\nb\x07") == "a\ufffd b\ufffd"
    assert len(shown("中文标签" * 10, 20)) == 10  # which are as wide as 20 Latin letters
    assert wrapped("one two three four five", 9) == "one two\nthree…"
    assert wrapped("", 9) == " "


def test_all_pictures_of_a_run(tmp_path: Path) -> None:
    per_class = {"a": ClassReport(0.5, 1.0, 2 / 3, 1), "b": ClassReport(0.0, 0.0, 0.0, 1)}
    counted = TaskReport(0.5, 0.25, 0.5, 1 / 3, 0.25, 0.5, 1 / 3, per_class, [[1, 0], [1, 0]])
    scores = CalibrationScores(ece=0.35, nll=0.5, brier=0.4, accuracy=0.5, macro_f1=1 / 3)
    sure, calibrated = [ReliabilityBin(0.0, 1.0, 2, 0.85, 0.5)], [ReliabilityBin(0.0, 1.0, 2, 0.6, 0.5)]
    figures = replace(counted, calibration=CalibrationReport(scores, scores, 1.0, 0.0, sure, sure))
    mended = replace(counted, calibration=CalibrationReport(scores, scores, 1.4, 0.0, calibrated, sure))
    reports = {"topic": {"val": figures, "test": mended}, "mood": {"val": figures}, "none": {}}
    pictures = draw_run(tmp_path, reports, [EpochFigures(1, 0.5)])
    assert {task: [each.path for each in kinds.values()] for task, kinds in pictures.tasks.items()} == {
        task: [f"figures/{task}_{split}_{kind}.svg" for kind in ("classes", "confusion", "reliability")]
        for task, split in (("topic", "test"), ("mood", "val"))
    }
    assert isinstance(pictures.training, Picture)
    paths = [each.path for kinds in pictures.tasks.values() for each in kinds.values()] + [pictures.training.path]
    assert sorted(paths) == sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.svg"))
    assert "this model (ECE 0.350)" in texts(tmp_path / "figures" / "mood_val_reliability.svg")
    topic = texts(tmp_path / "figures" / "topic_test_reliability.svg")
    assert {"before calibration (ECE 0.350)", "calibrated (ECE 0.100)"} <= set(topic)
    assert draw_run(tmp_path, {}, []).training is None


def test_without_probabilities_nothing_is_said_of_them(tmp_path: Path) -> None:
    counted = TaskReport(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, {"a": ClassReport(1.0, 1.0, 1.0, 1)}, [[1]])
    assert set(draw_run(tmp_path, {"mood": {"val": counted}}, []).tasks["mood"]) == {"classes", "confusion"}


def test_matplotlib_is_not_imported_before_a_picture_is_drawn() -> None:
    code = "import sys, mtl.reporting.figures.drawing; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=outside(), check=False).returncode == 0


def test_a_new_list_of_fonts_is_no_part_of_the_output(tmp_path: Path) -> None:
    program = (
        "import logging; logging.basicConfig(level=logging.INFO); from mtl.evaluation.records import EpochFigures; "
        "from mtl.reporting.figures.training import draw_training; draw_training('a.svg', [EpochFigures(1, 0.5)])"
    )
    environment = {
        **os.environ,
        "MPLCONFIGDIR": str(tmp_path / "new"),
        "PYTHONPATH": str(Path(mtl.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "a.svg").exists()
    assert done.stdout + done.stderr == ""

"""Whatever a label holds, a picture with it is well-formed, and shows it."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtl.evaluation.records import ClassReport, TaskReport
from mtl.reporting.figures.class_bars import draw_class_bars
from mtl.reporting.figures.style import shown

labels = st.text(min_size=1, max_size=30).filter(str.strip) | st.text(st.sampled_from("$\\{}_^<>&\"'a%# "), min_size=1)


@settings(max_examples=20, deadline=None)
@given(labels)
@example("$x^2")
@example("\\frac{1}{2} $")
@example("]]> <script>")
@example("\x00\ud800\ufffe")
def test_any_label_stands_in_a_well_formed_picture(label: str) -> None:
    scores = ClassReport(0.5, 0.5, 0.5, 7)
    per_class = {label: scores, "other class": scores}
    report = TaskReport(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, per_class, [[7, 0], [0, 7]])
    with tempfile.TemporaryDirectory() as folder:
        draw_class_bars(Path(folder) / "a.svg", report)
        root = ET.parse(Path(folder) / "a.svg").getroot()  # noqa: S314 - ours
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert shown(label, 38) in texts or not shown(label, 38).strip()

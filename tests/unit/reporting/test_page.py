"""What pages are made of: escaped text, tables, bins, the map of sentences, curves; no browser is needed."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl.base.errors import DataError
from mtl.evaluation.calibration import ece
from mtl.evaluation.records import ClassReport, ReliabilityBin, TaskReport
from mtl.evaluation.runs import read_curves
from mtl.reporting import charts, page
from mtl.reporting.charts import COLOURS, GREY, label_places, points, pooled_bins
from mtl.reporting.maps import plane, read_map, sentence_map, write_map
from mtl.reporting.page import environment, script_json
from mtl.reporting.run_charts import class_bars
from mtl.reporting.run_page import confusion_matrix
from tests.support.comparisons import answers, labels, predictions

if TYPE_CHECKING:
    from pathlib import Path


@given(st.text())
def test_no_text_can_end_a_script_or_a_line_in_it(data: str) -> None:
    written = script_json({"text": data + "</script><!--\u2028"})
    assert not set(written) & set("<>&\u2028\u2029\n\r")
    assert json.loads(written)["text"].endswith("</script><!--")


@given(st.text())
def test_no_text_can_become_markup(data: str) -> None:
    assert not set(environment.from_string("{{ data }}").render(data=data + "<b \"'>")) & set("<>\"'")


points_of_runs = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["lora", "all_frozen", "gradual_unfreezing", "classification_head_frozen"]),
        "seconds": st.floats(0, 5000),
        "score": st.sampled_from([0.2, 0.7, 0.71, 0.72, 0.9]),
        "front": st.booleans(),
    }
)


@given(st.lists(points_of_runs, min_size=1, max_size=9), st.sampled_from([360, 500, 1000]))
def test_no_name_of_a_point_lies_on_another_one(rows: list[dict[str, Any]], width: int) -> None:
    """Names of 6.6 pixels a character and 14 high, in a plot as narrow as they come or wider."""
    longest, least, most = (
        pick(each)
        for pick, each in zip(
            (max, min, max), ([row[key] for row in rows] for key in ("seconds", "score", "score")), strict=True
        )
    )
    boxes = []
    for row, place in zip(rows, label_places(rows), strict=True):
        if place is None:
            continue
        align, dx, dy = place
        share = (most - row["score"]) / (most - least) if most > least else 0.5
        x = width * np.log1p(row["seconds"]) / (np.log1p(longest) or 1) + dx
        x -= 6.6 * len(row["label"]) if align == "right" else 0
        boxes.append((x, 16 + share * 288 + dy, x + 6.6 * len(row["label"])))
    for one, other in combinations(boxes, 2):
        apart_x = max(other[0] - one[2], one[0] - other[2])
        assert apart_x >= -1e-6 or abs(one[1] - other[1]) >= 14 - 1e-6  # they may touch


def test_each_of_six_usual_scenarios_gets_its_name() -> None:
    names = ["backbone_frozen", "lower_layers_frozen", "lora", "gradual_unfreezing", "full_finetune", "all_frozen"]
    seconds, scores = [12.0, 60.0, 80.0, 95.0, 100.0, 0.0], [0.78, 0.80, 0.83, 0.84, 0.845, 0.2]
    rows = [
        {"label": name, "seconds": time, "score": score, "front": at in (0, 2, 4, 5)}
        for at, (name, time, score) in enumerate(zip(names, seconds, scores, strict=True))
    ]
    assert None not in label_places(rows)


def test_numbers_that_are_not_finite_become_null() -> None:
    assert script_json([1.5, float("nan"), float("inf")]) == "[1.5,null,null]"


def test_bins_hold_every_prediction_once() -> None:
    true = labels(30)
    sure, unsure = predictions(true, true, sure=0.95), predictions(true, answers(true, range(12)), sure=0.55)
    bins = pooled_bins([sure, unsure])
    found = points("both", bins)
    assert [(each["name"], each["count"]) for each in found] == [("both", 30), ("both", 30)]
    assert [each["accuracy"] for each in found] == pytest.approx([0.6, 1.0])
    assert [each["confidence"] for each in found] == pytest.approx([0.55, 0.95])
    assert ece(bins) == pytest.approx(0.05)


def test_classes_in_another_order_are_the_same_classes() -> None:
    true = labels(30)
    one = predictions(true, answers(true, range(12)), sure=0.7)
    turned = replace(one, classes=one.classes[::-1], probabilities=one.probabilities[:, ::-1])
    twice, once = pooled_bins([one, turned]), pooled_bins([one])
    assert [each.count for each in twice] == [2 * each.count for each in once]
    assert [each.confidence for each in twice] == pytest.approx([each.confidence for each in once])
    assert [each.accuracy for each in twice] == pytest.approx([each.accuracy for each in once])


def test_a_probability_of_one_lies_in_the_last_bin() -> None:
    true = labels(3)
    last = pooled_bins([predictions(true, true, sure=1.0)])[-1]
    assert (last.confidence, last.accuracy, last.count) == (1.0, 1.0, 3)


def test_a_plane_keeps_the_distances_of_points_that_lie_in_one() -> None:
    generator = np.random.default_rng(3)
    flat = generator.normal(size=(20, 2)) @ np.linalg.qr(generator.normal(size=(8, 2)))[0].T
    points, explained = plane(flat + 5)
    assert explained == pytest.approx(1)
    assert _distances(points) == pytest.approx(_distances(flat))


def test_a_plane_shows_the_share_of_variance_of_its_two_directions() -> None:
    embeddings = np.random.default_rng(1).normal(size=(200, 3)) * np.array([3.0, 2.0, 1.0])
    points, explained = plane(embeddings)
    assert explained == pytest.approx(points.var(axis=0).sum() / embeddings.var(axis=0).sum())
    assert points.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 4), (5, 1), (3, 2)])
def test_few_rows_or_dimensions_have_a_plane_too(shape: tuple[int, int]) -> None:
    points, explained = plane(np.ones(shape))
    assert points.shape == (shape[0], 2)
    assert explained == 0


def test_the_map_turns_the_plane_after_training_and_changes_no_distance() -> None:
    before = np.random.default_rng(2).normal(size=(30, 6)) * np.array([9, 4, 1, 1, 1, 1])
    turned = before @ np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    found = sentence_map(before, turned)
    assert found.after == pytest.approx(found.before, abs=1e-9)
    assert _distances(found.after) == pytest.approx(_distances(plane(turned)[0]))


def test_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    places = np.array([0, 2, 3, 4, 7, 8, 20, 21, 40])
    found = sentence_map(generator.normal(size=(9, 4)), generator.normal(size=(9, 4)), places)
    write_map(tmp_path / "map.npz", found)
    again = read_map(tmp_path / "map.npz")
    assert again is not None
    assert again.before == pytest.approx(found.before, abs=1e-5)
    assert again.after == pytest.approx(found.after, abs=1e-5)
    assert again.explained == found.explained
    assert again.rows.tolist() == places.tolist()
    assert again.moved
    assert read_map(tmp_path / "other.npz") is None


def test_a_map_of_an_encoder_that_did_not_change_is_one_plane() -> None:
    points = np.random.default_rng(2).normal(size=(6, 4))
    found = sentence_map(points, points.copy())
    assert not found.moved
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_file_that_is_no_map_is_named(tmp_path: Path) -> None:
    rows = np.arange(3)
    np.savez(tmp_path / "map.npz", before=np.ones((3, 3)), after=np.ones((3, 3)), explained=np.ones(2), rows=rows)
    with pytest.raises(DataError) as caught:
        read_map(tmp_path / "map.npz")
    assert str(caught.value) == (
        "Data: 1 problem\n"
        f"  {tmp_path / 'map.npz'}\n"
        "      found:    arrays of shapes (3, 3), (3, 3), (2,), (3,)\n"
        "      expected: two of the shape (rows, 2), one of (2,), whole numbers of (rows,)"
    )
    (tmp_path / "map.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="not readable"):
        read_map(tmp_path / "map.npz")


def test_no_damaged_map_ends_in_a_traceback(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    path = tmp_path / "map.npz"
    write_map(path, sentence_map(generator.normal(size=(9, 4)), generator.normal(size=(9, 4))))
    content = path.read_bytes()
    for at in generator.integers(len(content), size=300).tolist():
        damaged = bytearray(content)
        damaged[at] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            read_map(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("before", np.full((3, 2), np.nan)), ("after", np.full((3, 2), "a")), ("rows", np.array([2, 1, 0]))],
)
def test_a_map_of_other_values_is_refused(name: str, value: np.ndarray, tmp_path: Path) -> None:
    arrays = {"before": np.ones((3, 2)), "after": np.ones((3, 2)), "explained": np.ones(2), "rows": np.arange(3)}
    arrays[name] = value
    np.savez(tmp_path / "map.npz", **arrays)  # type: ignore[arg-type]  # numpy takes a keyword of its own for one
    with pytest.raises(DataError):
        read_map(tmp_path / "map.npz")


def test_a_page_needs_no_cache_to_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTL_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(page, "_bundle", lambda: "script")
    page.charts_script.cache_clear()
    try:
        assert page.charts_script() == "script"
    finally:
        page.charts_script.cache_clear()


def test_curves_are_means_by_epoch(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.csv").write_text(
        "epoch,step,loss,f1\n0,9,2.0,\n0,19,1.0,\n0,19,,0.5\n1,29,x,0.75\n,,"
    )
    assert read_curves(tmp_path) == {"loss": [(1, 1.5)], "f1": [(1, 0.5), (2, 0.75)]}
    assert read_curves(tmp_path / "logs") == {}


def _distances(points: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return found


def many_classes(count: int) -> TaskReport:
    """Return a report in which class ``k`` is taken for the next one in ``k`` of 200 rows, the last in none."""
    confusion = np.diag(200 - np.arange(count))
    confusion[np.arange(count - 1), np.arange(1, count)] = np.arange(count - 1)
    confusion[-1, -1] = 200
    names = [f"a question about an account of the customer, case {at}" for at in range(count)]
    right, true, taken = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    scores = right / taken, right / true, 2 * right / (taken + true)
    per_class = {
        name: ClassReport(float(precision), float(recall), float(f1), int(rows))
        for name, precision, recall, f1, rows in zip(names, *scores, true, strict=True)
    }
    return TaskReport(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, per_class, confusion.tolist())


def test_bars_show_the_class_with_the_lowest_f1_first_and_say_what_is_left_out() -> None:
    report = many_classes(77)
    chart = class_bars(report)
    shown = chart.spec["encoding"]["y"]["sort"]
    assert len(shown) == len(set(shown)) == 15
    assert [name.rpartition(" (")[0].rpartition(" ")[2] for name in shown[:3]] == ["75", "74", "73"]
    assert all(name.startswith("a questio…") for name in shown)
    assert {row["whole"] for row in chart.spec["data"]["values"]} <= set(report.labels)
    lowest = sorted(scores.f1 for scores in report.per_class.values())[15]
    assert chart.summary.endswith(f"Not shown: 62 more classes, F1 {lowest:.3f} to 1.000.")


def test_of_many_classes_the_most_confused_have_a_matrix_whose_rows_are_whole() -> None:
    report = many_classes(77)
    html = str(environment.get_template("parts.html").module.matrix(confusion_matrix("topic", report)))  # type: ignore[attr-defined] # a macro
    assert "the 30 of 77 classes with the most wrong rows" in html
    assert '<div class="scroll matrix dense"' in html
    assert html.count(' right">') == 30
    assert html.count("<tr>") == 31
    assert html.count('<th scope="col">') == 31
    row = next(part for part in html.split("<tr>") if "case 75</th>" in part)
    assert sum(map(int, re.findall(r'">(\d+)</td>', row))) == report.per_class[report.labels[75]].support


def test_a_map_colours_some_classes_and_leaves_the_others_grey_and_below() -> None:
    rows = [
        {"x": 0.0, "y": 0.0, "class": f"class {at}", "predicted": "class 0", "text": "", "right": at % 2 == 0}
        for at in range(9)
    ]
    chart = charts.sentence_map("map", "Map", rows, [f"class {at}" for at in (1, 2)], "", others=7)
    scale = chart.spec["layer"][0]["encoding"]["color"]["scale"]
    assert scale == {"domain": ["class 1", "class 2", "7 other classes"], "range": [*COLOURS[:2], GREY]}
    drawn = [(row["grey"], row["colour"]) for row in chart.spec["data"]["values"]]
    assert drawn == [(True, "7 other classes")] * 7 + [(False, "class 1"), (False, "class 2")]


def test_bins_of_few_rows_are_marked_and_get_their_count() -> None:
    bins = [ReliabilityBin(0.0, 0.5, 3, 0.4, 1.0), ReliabilityBin(0.5, 1.0, 300, 0.8, 0.7)]
    found = points("run", bins)
    assert [each["few"] for each in found] == [True, False]
    assert len(charts.reliability("r", "Reliability", found, ["run"], "").spec["layer"]) == 4
    assert len(charts.reliability("r", "Reliability", found[1:], ["run"], "").spec["layer"]) == 3

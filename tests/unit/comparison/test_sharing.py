"""What sharing the encoder gains or costs each task: which runs belong together, the figures, and every output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mtl.base.terminal import console
from mtl.comparison import outputs, words
from mtl.comparison.comparing import Comparison, compare
from mtl.comparison.page import comparison_page
from mtl.comparison.recipes import recipe_of
from mtl.comparison.recommendation import recommend
from mtl.evaluation.runs import read_record
from tests.support.comparisons import answers, labels, predictions, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from mtl.evaluation.predictions import Predictions

ROWS = 150
TRUE = labels(ROWS)


def predicted(wrong: int) -> Predictions:
    """Return predictions of which every so-manieth of the first rows is wrong."""
    return predictions(TRUE, answers(TRUE, list(range(0, 3 * wrong, 3))))


def config(*tasks: str, **other: Any) -> dict[str, Any]:
    """Return what a run of some tasks keeps of its configuration."""
    values: dict[str, Any] = {
        "task": tasks[0] if len(tasks) == 1 else None,
        "data": {"tasks": {task: {"path": f"{task}.csv"} for task in tasks}, "interleave": "paired"},
        "loss": {"combine": "sum", "weights": {}, "consistency": 0.0, "tasks": {}},
        "callbacks": {"monitor": "val/macro_f1", "gradients": {"every_n_steps": 10}},
        "optimizer": {"eps": 1e-8},
        "freeze": {"backbone": "none"},
    }
    return {**values, **other}


def run(folder: Path, wrong: dict[str, int], name: str, seed: int = 1, **other: Any) -> Path:
    """Write a run that gets so many rows of each task wrong."""
    tasks = {task: predicted(count) for task, count in wrong.items()}
    rows = {task: {"bad": 10, "fine": 10, "good": 10} for task in wrong}
    return write_run(
        folder,
        tasks,
        name=name,
        seed=seed,
        config=config(*wrong, **other),
        training_rows=rows,
        seconds=30.0 * len(wrong),
    )


@pytest.fixture
def compared(tmp_path: Path) -> Comparison:
    """Return the comparison of two tasks together and each alone: sharing helps mood and changes nothing for topic."""
    run(tmp_path / "0", {"topic": 20, "mood": 5}, "quickstart")
    run(tmp_path / "1", {"topic": 20}, "topic alone, quickstart")
    run(tmp_path / "2", {"mood": 45}, "mood alone, quickstart")
    return compare([tmp_path], 500)


def test_each_task_is_held_against_itself_alone(compared: Comparison) -> None:
    found = {(each.task, each.measure): each for each in compared.sharing}
    assert set(found) == {(task, measure) for task in ("topic", "mood") for measure in ("accuracy", "macro_f1")}
    mood = found["mood", "accuracy"]
    assert (mood.scenario, mood.reference) == ("quickstart", "mood alone, quickstart")
    assert mood.value == pytest.approx(40 / ROWS)
    assert mood.low < mood.value < mood.high
    assert mood.real
    topic = found["topic", "macro_f1"]
    assert (topic.value, topic.low, topic.high, topic.p_adjusted) == (0.0, 0.0, 0.0, 1.0)


def test_the_interval_is_that_of_a_paired_bootstrap(compared: Comparison) -> None:
    """Directly: the mean of the difference of right answers over rows drawn with replacement."""
    right = [np.array([a == b for a, b in zip(TRUE, predicted(wrong).predicted, strict=True)]) for wrong in (5, 45)]
    gained = right[0].astype(float) - right[1]
    drawn = np.random.default_rng(0).integers(0, ROWS, size=(4000, ROWS))
    low, high = np.percentile(gained[drawn].mean(axis=1), [2.5, 97.5])
    mood = next(each for each in compared.sharing if (each.task, each.measure) == ("mood", "accuracy"))
    assert (mood.low, mood.high) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize(
    ("other", "comparable"),
    [
        ({"optimizer": {"eps": 1e-6}}, False),
        ({"loss": {"combine": "famo", "weights": {}, "consistency": 0.0, "tasks": {}}}, True),
        ({"loss": {"combine": "sum", "weights": {}, "consistency": 1.0, "tasks": {}}}, False),
        ({"loss": {"combine": "sum", "weights": {}, "consistency": 0.0, "tasks": {"topic": {"gamma": 1}}}}, True),
        ({"loss": {"combine": "sum", "weights": {}, "consistency": 0.0, "tasks": {"mood": {"gamma": 1}}}}, False),
        ({"logger": {"kinds": []}}, True),
    ],
)
def test_only_runs_that_are_alike_for_the_task_are_compared(
    other: dict[str, Any], comparable: bool, tmp_path: Path
) -> None:
    together = read_record(run(tmp_path / "0", {"topic": 20, "mood": 5}, "a", **other))
    alone = read_record(run(tmp_path / "1", {"mood": 45}, "b", seed=2))
    assert (alone.alone, together.alone) == ("mood", None)
    assert (recipe_of(together, "mood") == recipe_of(alone, "mood")) == comparable


def test_other_training_rows_are_another_recipe(tmp_path: Path) -> None:
    first = read_record(run(tmp_path / "0", {"mood": 5}, "a"))
    few = {"mood": {"bad": 1, "fine": 1, "good": 1}}
    second = read_record(write_run(tmp_path / "1", {"mood": predicted(5)}, config=config("mood"), training_rows=few))
    assert recipe_of(first, "mood") != recipe_of(second, "mood")


def test_without_runs_of_one_task_nothing_is_said(tmp_path: Path) -> None:
    run(tmp_path / "0", {"topic": 20, "mood": 5}, "a")
    run(tmp_path / "1", {"topic": 30, "mood": 5}, "b", optimizer={"eps": 1.0})
    found = compare([tmp_path], 500)
    assert found.sharing == []
    assert "Sharing the encoder" not in outputs.render(found, recommend(found))
    assert "Sharing the encoder" not in comparison_page(found, recommend(found))


def test_the_advice_follows_from_the_figures(compared: Comparison) -> None:
    advice = next(each for each in recommend(compared) if each.question == "Sharing the encoder")
    assert advice.answer == "no difference for topic beyond noise; helps mood"
    assert advice.reasons[0] == "In quickstart, macro-F1 with the others minus alone:"
    assert advice.reasons[-1] == "Training took 1 min 0 s for all together and 1 min 0 s one by one."
    evidence = {each.task: words.evidence(each) for each in compared.sharing if each.measure == "macro_f1"}
    assert f"topic 0.000 ({evidence['topic']})." in advice.reasons


def test_every_output_has_it(compared: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    advice = recommend(compared)
    mood = next(each for each in compared.sharing if (each.task, each.measure) == ("mood", "macro_f1"))
    cells = [words.signed(mood.value), words.interval(mood), words.p_value(mood.p_adjusted), "real"]
    text = outputs.render(compared, advice)
    section = text.partition("## Sharing the encoder")[2].partition("\n## ")[0]
    line = next(row for row in section.splitlines() if "mood" in row and "macro-F1" in row)
    assert all(cell in line for cell in cells)
    page = comparison_page(compared, advice)
    assert 'id="sharing"' in page
    assert words.SHARING in page
    for block in outputs.blocks(compared, advice):
        console().print(block)
    shown = capsys.readouterr().out
    assert "Sharing the encoder" in shown
    assert max(map(len, shown.splitlines())) <= 80
    outputs.write(tmp_path, compared)
    written = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["sharing"]
    assert {(each["task"], each["measure"], each["real"]) for each in written} == {
        ("mood", "accuracy", True),
        ("mood", "macro_f1", True),
        ("topic", "accuracy", False),
        ("topic", "macro_f1", False),
    }

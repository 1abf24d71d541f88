"""What the gradients of the tasks say, in words that follow from the figures."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from mtl.base.schema import read_record
from mtl.evaluation.task_gradients import Agreement, GradientFigures, sentences, summarised


def agreement(mean: float, deviation: float = 0.1, steps: int = 25) -> Agreement:
    return Agreement("a", "b", steps, mean, deviation, 0.5)


def test_means_deviations_and_shares() -> None:
    figures = summarised("layer.5", {"a": [1.0, 3.0], "b": []}, {("a", "b"): [0.5, -0.1, -0.1], ("a", "c"): []}, 3)
    (pair,) = figures.agreements
    assert figures.norms["a"].mean == 2.0
    assert figures.norms["a"].deviation == pytest.approx(2**0.5)
    assert figures.norms.keys() == {"a"}
    assert (pair.first, pair.second, pair.steps) == ("a", "b", 3)
    assert pair.mean == pytest.approx(0.1)
    assert pair.deviation == pytest.approx(0.12**0.5)
    assert pair.negative == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (agreement(-0.3), "fight: they pull in opposite directions"),
        (agreement(0.3), "help each other: they pull the same way"),
        (agreement(-0.03, 0.5), "neither fight nor help each other, as far as these steps tell"),
        (agreement(0.04, 0.05), "hardly touch each other"),
        (agreement(-0.9, 0.01, 9), "cannot be judged by 9 measured steps (10 are the least)"),
    ],
)
def test_the_verdict_follows_from_mean_spread_and_steps(found: Agreement, verdict: str) -> None:
    assert found.verdict == verdict


def test_the_interval_is_that_of_a_mean() -> None:
    assert agreement(-0.3, 0.1, 25).interval == pytest.approx((-0.3 - 1.96 * 0.02, -0.3 + 1.96 * 0.02))


def test_sentences_have_the_figures() -> None:
    figures = summarised("layer.5", {"a": [1.0, 3.0], "b": [0.5]}, {("a", "b"): [-0.5, -0.1] * 10}, 20)
    assert list(sentences(figures)) == [
        "a and b fight: they pull in opposite directions. Mean cosine −0.30 ± 0.21 (95 % interval of the mean −0.39 to "
        "−0.21), below 0 in 100 % of 20 measured steps.",
        "Gradient norm at the embeddings: a 2 ± 1.4, b 0.5 ± 0.",
    ]


def test_what_is_written_is_read_again() -> None:
    figures = summarised("layer.5", {"a": [1.0, 3.0]}, {("a", "b"): [-0.5, -0.1]}, 2)
    assert read_record(GradientFigures, asdict(figures), "metrics.json") == figures

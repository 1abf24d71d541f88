"""The bootstrap from counts: equal to a plain one that draws rows, and honest where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from mtl.evaluation.comparison import bootstrap
from mtl.evaluation.comparison.bootstrap import Answers, averaged, holm, p_value, resampled, weights

ROWS, CLASSES = 60, 3


def answers(seed: int, right: float = 0.7, rows: int = ROWS) -> Answers:
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    other = generator.integers(0, CLASSES, rows)
    return Answers(labels, np.where(generator.random(rows) < right, labels, other), CLASSES)


def drawn_rows(resamples: int, seed: int, rows: int = ROWS) -> list[np.ndarray]:
    drawn = np.concatenate(list(weights(rows, resamples, [seed])))
    return [np.repeat(np.arange(rows), each.astype(int)) for each in drawn]


def test_every_resample_draws_as_many_rows_as_there_are() -> None:
    assert {len(rows) for rows in drawn_rows(50, seed=1)} == {ROWS}


def test_measures_equal_those_of_the_drawn_rows_looked_at_one_by_one() -> None:
    runs = [answers(seed) for seed in range(3)]
    found = resampled(runs, [0, 2], 40, [7])
    for run, values in zip(runs, found, strict=True):
        for at, rows in enumerate(drawn_rows(40, seed=7)):
            true, predicted = run.labels[rows], run.predicted[rows]
            f1 = f1_score(true, predicted, labels=range(CLASSES), average=None, zero_division=0)
            expected = {
                "accuracy": accuracy_score(true, predicted),
                "macro_f1": f1.mean(),
                "rare_f1": f1[[0, 2]].mean(),
            }
            assert {name: column[at] for name, column in values.items()} == pytest.approx(expected, abs=1e-12)


def test_few_rows_at_a_time_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * ROWS)
    sizes = [len(part) for part in weights(ROWS, 20, [1])]
    assert sizes == [7, 7, 6]
    in_parts = resampled([answers(1)], [], 20, [1])[0]["macro_f1"]
    monkeypatch.undo()
    assert np.array_equal(in_parts, resampled([answers(1)], [], 20, [1])[0]["macro_f1"])


def test_a_class_that_no_resample_holds_counts_with_f1_0() -> None:
    run = Answers(np.zeros(5, dtype=np.int64), np.zeros(5, dtype=np.int64), 2)
    assert resampled([run], [], 10, [1])[0]["macro_f1"].tolist() == [0.5] * 10


def test_interval_and_p_value_agree_with_a_plain_bootstrap() -> None:
    """Another generator, a loop over resamples, F1 from its definition: the same distribution, up to chance."""
    first, second = answers(1, 0.85), answers(2, 0.7)
    one, other = resampled([first, second], [], 4000, [3])
    quick = one["macro_f1"] - other["macro_f1"]
    generator = np.random.default_rng(99)
    plain = np.empty(1500)
    for at in range(len(plain)):
        rows = generator.integers(0, ROWS, ROWS)
        plain[at] = _macro_f1(first, rows) - _macro_f1(second, rows)
    assert np.percentile(quick, [2.5, 50, 97.5]) == pytest.approx(np.percentile(plain, [2.5, 50, 97.5]), abs=0.02)
    assert p_value(quick) == pytest.approx(p_value(plain), abs=0.06)


def _macro_f1(run: Answers, rows: np.ndarray) -> float:
    """Return macro-F1 from the definition: precision and recall of each class."""
    true, predicted = run.labels[rows], run.predicted[rows]
    scores = []
    for each in range(CLASSES):
        hits = np.sum((true == each) & (predicted == each))
        precision, recall = hits / max(np.sum(predicted == each), 1), hits / max(np.sum(true == each), 1)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return float(np.mean(scores))


def test_equally_good_models_are_rarely_called_different() -> None:
    """At the level 0.05 about one in twenty is; 200 trials leave it below 0.1 by a wide margin."""
    called = 0
    for trial in range(200):
        pair = [answers(1000 + 2 * trial, rows=150), answers(1001 + 2 * trial, rows=150)]
        one, other = resampled(pair, [], 300, [trial])
        called += p_value(one["macro_f1"] - other["macro_f1"]) < 0.05
    assert called < 20


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.0] * 99, 1.0),
        ([1.0] * 99, 2 / 100),
        ([-1.0] * 99, 2 / 100),
        ([1.0] * 94 + [-1.0] * 5, 12 / 100),
        ([1.0, -1.0, 1.0], 1.0),
    ],
)
def test_p_value(differences: list[float], expected: float) -> None:
    assert p_value(np.array(differences)) == pytest.approx(expected)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_are_drawn_alike_for_scenarios_with_the_same_seeds() -> None:
    runs = [np.arange(50.0), np.arange(50.0) + 100]
    assert np.array_equal(averaged(runs, [1, 2], 5), averaged(runs, [1, 2], 5))
    assert not np.array_equal(averaged(runs, [1, 2], 5), averaged(runs, [3, 4], 5))


def test_seeds_of_a_resample_are_a_mean_of_drawn_runs() -> None:
    found = averaged([np.zeros(2000), np.ones(2000)], [1, 2], 5)
    assert set(found.tolist()) == {0.0, 0.5, 1.0}
    assert found.mean() == pytest.approx(0.5, abs=0.05)


def test_one_seed_stays_as_it_is() -> None:
    assert averaged([np.arange(4.0)], [1], 5).tolist() == [0, 1, 2, 3]

"""The bootstrap from counts: equal to a plain one that draws rows, and honest where nothing differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from mtl.comparison import bootstrap
from mtl.comparison.bootstrap import (
    SeedNoise,
    holm,
    p_value,
    paired_seed_noise,
    pooled_variance,
    resampled,
    seed_noise,
    weights,
    with_seed_noise,
)
from mtl.comparison.differences import PairedBootstrap
from mtl.comparison.scenarios import Scenario
from mtl.evaluation.predictions import Predictions
from mtl.evaluation.run_metrics import RunMetrics
from mtl.evaluation.runs import Record, RunPredictions

ROWS, CLASSES = 60, 3


LABELS = np.arange(ROWS) % CLASSES


def predictions(seed: int, right: float = 0.7, labels: np.ndarray = LABELS) -> np.ndarray:
    generator = np.random.default_rng(seed)
    other = generator.integers(0, CLASSES, len(labels))
    return np.where(generator.random(len(labels)) < right, labels, other)


def drawn_rows(resamples: int, seed: int, rows: int = ROWS) -> list[np.ndarray]:
    drawn = np.concatenate(list(weights(rows, resamples, [seed])))
    return [np.repeat(np.arange(rows), each.astype(int)) for each in drawn]


def test_every_resample_draws_as_many_rows_as_there_are() -> None:
    assert {len(rows) for rows in drawn_rows(50, seed=1)} == {ROWS}


def test_measures_equal_those_of_the_drawn_rows_looked_at_one_by_one() -> None:
    runs = [predictions(seed) for seed in range(3)]
    samples = resampled(LABELS, runs, CLASSES, [0, 2], 40, [7])
    for run, values in zip(runs, samples, strict=True):
        for at, rows in enumerate([np.arange(ROWS), *drawn_rows(40, seed=7)]):  # the observed rows first
            true, predicted = LABELS[rows], run[rows]
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
    in_parts = resampled(LABELS, [predictions(1)], CLASSES, [], 20, [1])[0]["macro_f1"]
    monkeypatch.undo()
    assert np.array_equal(in_parts, resampled(LABELS, [predictions(1)], CLASSES, [], 20, [1])[0]["macro_f1"])


def test_a_class_that_no_resample_holds_counts_with_f1_0() -> None:
    zeros = np.zeros(5, dtype=np.int64)
    assert resampled(zeros, [zeros], 2, [], 10, [1])[0]["macro_f1"].tolist() == [0.5] * 11


def test_interval_and_p_value_agree_with_a_plain_bootstrap() -> None:
    """Another generator, a loop over resamples, F1 from its definition: the same distribution, up to chance."""
    first, second = predictions(1, 0.85), predictions(2, 0.7)
    one, other = resampled(LABELS, [first, second], CLASSES, [], 4000, [3])
    quick = (one["macro_f1"] - other["macro_f1"])[1:]
    generator = np.random.default_rng(99)
    plain = np.empty(1500)
    for at in range(len(plain)):
        rows = generator.integers(0, ROWS, ROWS)
        plain[at] = _macro_f1(first, rows) - _macro_f1(second, rows)
    assert np.percentile(quick, [2.5, 50, 97.5]) == pytest.approx(np.percentile(plain, [2.5, 50, 97.5]), abs=0.02)
    assert p_value(quick) == pytest.approx(p_value(plain), abs=0.06)


def _macro_f1(run: np.ndarray, rows: np.ndarray) -> float:
    """Return macro-F1 from the definition: precision and recall of each class."""
    true, predicted = LABELS[rows], run[rows]
    scores = []
    for each in range(CLASSES):
        hits = np.sum((true == each) & (predicted == each))
        precision, recall = hits / max(np.sum(predicted == each), 1), hits / max(np.sum(true == each), 1)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return float(np.mean(scores))


def test_equally_good_models_are_rarely_called_different() -> None:
    """At the level 0.05 about one in twenty is; 200 trials leave it below 0.1 by a wide margin."""
    called, labels = 0, np.arange(150) % CLASSES
    for trial in range(200):
        pair = [predictions(seed, labels=labels) for seed in (1000 + 2 * trial, 1001 + 2 * trial)]
        one, other = resampled(labels, pair, CLASSES, [], 300, [trial])
        called += p_value((one["macro_f1"] - other["macro_f1"])[1:]) < 0.05
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


def test_seed_noise_takes_of_each_scenario_its_own_variance_or_the_mean_of_all() -> None:
    varied, alike, one = np.array([0.80, 0.83, 0.86]), np.array([0.70, 0.71]), np.array([0.5])
    pooled = pooled_variance([varied, alike, one])
    assert pooled is not None
    assert pooled.freedom == 3
    assert pooled.variance == pytest.approx((2 * 0.03**2 + 0.005**2 * 2) / 3)
    expected = np.sqrt(0.03**2 / 3 + pooled.variance / 2)
    assert seed_noise(varied, alike, pooled) == SeedNoise(pytest.approx(expected), 2.0)  # type: ignore[arg-type]
    expected = np.sqrt(pooled.variance / 2 + pooled.variance)
    assert seed_noise(one, alike, pooled) == SeedNoise(pytest.approx(expected), 3.0)  # type: ignore[arg-type]
    assert pooled_variance([one, one]) is None
    assert seed_noise(one, np.array([0.9]), None) is None


def test_paired_seed_noise_is_that_of_the_paired_t_test() -> None:
    first, second = np.array([0.80, 0.83, 0.86]), np.array([0.7, 0.71, 0.75])
    related = stats.ttest_rel(first, second)
    noise = paired_seed_noise(first - second)
    assert noise is not None
    assert noise.freedom == related.df
    assert np.mean(first - second) / noise.error == pytest.approx(related.statistic)
    assert paired_seed_noise(np.array([0.1])) is None


def test_seed_noise_widens_a_difference_as_students_t_does() -> None:
    found = with_seed_noise(np.zeros(200_000), SeedNoise(0.5, 2.0), 7)
    assert len(found) == 400_000
    expected = 0.5 * stats.t(2).ppf([0.1, 0.5, 0.9, 0.975])
    assert np.percentile(found, [10, 50, 90, 97.5]) == pytest.approx(expected, abs=0.05)
    turned = with_seed_noise(-np.arange(10.0), SeedNoise(0.5, 2.0), 7)
    assert np.sort(-turned) == pytest.approx(np.sort(with_seed_noise(np.arange(10.0), SeedNoise(0.5, 2.0), 7)))


@pytest.mark.parametrize(
    "deviations",
    [(0.01,) * 2, (0.01,) * 6, (0.02, 0.002), (0.02, 0.02, 0.002, 0.002, 0.002)],
    ids=["two alike", "six alike", "one of two varies more", "two of five vary more"],
)
@pytest.mark.parametrize("rows", [200, 2_000, 10_000])
@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_scenarios_are_rarely_called_different(seeds: int, rows: int, deviations: tuple[float, ...]) -> None:
    """Under the null at p < 0.05 at most one pair in twenty differs, up to chance; drawing seeds anew found up to 29 %.

    Each run has an accuracy of its own around a common one. The noise of the rows is normal, as that of accuracy is.
    """
    trials, resamples = 1_000, 400
    generator = np.random.default_rng([seeds, rows])
    called = 0
    for _ in range(trials):
        accuracies = 0.85 + generator.standard_normal((len(deviations), seeds)) * np.array(deviations)[:, None]
        scores = generator.binomial(rows, accuracies) / rows
        noise = seed_noise(scores[0], scores[1], pooled_variance(scores))
        assert noise is not None
        of_rows = np.sqrt((scores[:2] * (1 - scores[:2])).sum() / rows) / seeds
        on_resamples = scores[0].mean() - scores[1].mean() + of_rows * generator.standard_normal(resamples)
        called += p_value(with_seed_noise(on_resamples, noise, 1)) < 0.05
    assert called / trials < 0.065


@pytest.mark.parametrize("seeds", [2, 3])
def test_pairs_of_equal_scenarios_are_rarely_called_different_from_their_predictions_on(seeds: int) -> None:
    """As above, but from predictions to p-values; the seeds vary so much that they make most of the noise."""
    rows, trials, names = 1_000, 250, np.array(["bad", "good"])
    generator = np.random.default_rng(seeds)
    texts = [str(at) for at in range(rows)]

    def scenario(name: str, true: np.ndarray) -> Scenario:
        accuracies = 0.8 + 0.035 * generator.standard_normal(seeds)
        answers = [np.where(generator.random(rows) < accuracy, true, 1 - true) for accuracy in accuracies]
        probabilities = np.full((rows, 2), 0.5)
        written = [
            Predictions(["bad", "good"], texts, names[true].tolist(), names[answer].tolist(), probabilities, texts)
            for answer in answers
        ]
        records = [
            Record(Path(), {"seed": seed}, RunMetrics({}), {"topic": RunPredictions("test", each)})
            for seed, each in enumerate(written)
        ]
        return Scenario(name, tuple(records))

    called = 0
    for _ in range(trials):
        true = generator.integers(0, 2, rows)
        pair = [scenario(name, true) for name in ("one", "other")]
        difference = PairedBootstrap(pair, ["topic"], {"topic": []}, 200).difference(
            pair[0], pair[1], "topic", "macro_f1"
        )
        assert difference is not None
        assert difference.over_seeds
        called += difference.p < 0.05
    assert called / trials < 0.06

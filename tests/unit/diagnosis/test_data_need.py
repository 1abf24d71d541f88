"""Learning curves per class, on Gaussians whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mtl.diagnosis import data_need as module
from mtl.diagnosis.cross_validation import FOLDS, Rows
from mtl.diagnosis.data_need import (
    FRACTIONS,
    ClassNeed,
    Draw,
    _resampled,
    _supported,
    balance,
    bootstrapped_f1,
    data_need,
    draws_within,
)
from mtl.evaluation.counts import f1_scores

LABELS = ("many", "plenty", "few")
CENTRES = np.array([[0.0, 0.0], [6.0, 0.0], [1.5, 1.5]])
"""``few`` overlaps with ``many``; ``plenty`` lies apart."""


def rows(counts: tuple[int, ...], seed: int, centres: np.ndarray = CENTRES) -> Rows:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = random.normal(size=(len(labels), 12))
    noise[:, :2] += centres[labels]
    return Rows(noise.astype(np.float32), labels, np.arange(len(labels), dtype=np.uint64))


def needs(train: tuple[int, ...], val: tuple[int, ...], seed: int = 0, **kwargs: np.ndarray) -> list[ClassNeed]:
    random = np.random.default_rng(seed)
    return data_need(rows(train, seed, **kwargs), rows(val, seed + 1, **kwargs), LABELS, 0.3, 50, random)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rare_class_that_overlaps_gains_most(seed: int) -> None:
    first, *others = needs((200, 200, 20), (60, 60, 60), seed)
    assert first.label == "few"
    assert first.low > 0
    assert first.low <= first.gain <= first.high
    assert first.best > 0.8
    assert first.own_gain > first.gain
    assert all(need.gain < first.gain / 3 for need in others)


def test_a_rare_class_that_lies_apart_gains_little() -> None:
    apart = np.array([[0.0, 0.0], [1.5, 1.5], [0.0, 12.0]])
    by_label = {need.label: need for need in needs((100, 100, 30), (60, 60, 60), centres=apart)}
    assert by_label["few"].gain < 0.01


def test_a_class_with_too_few_rows_says_so() -> None:
    enough = {need.label: need.enough for need in needs((100, 100, 4), (20, 20, 20))}
    assert enough == {"many": True, "plenty": True, "few": False}


def test_the_curve_ends_at_the_rows_that_heads_were_fitted_on() -> None:
    by_label = {need.label: need for need in needs((100, 50, 20), (20, 20, 20))}
    np.testing.assert_allclose(by_label["many"].curve_rows, 80 * np.array(FRACTIONS))
    assert by_label["few"].curve.shape == (3, len(FRACTIONS))
    assert by_label["few"].tested == 40
    for need in by_label.values():
        assert need.macro[0, -1] == pytest.approx(by_label["many"].macro[0, -1])  # the whole is one point


def test_without_validation_rows_the_held_out_ones_tell() -> None:
    first = needs((200, 200, 20), (0, 0, 0))[0]
    assert first.label == "few"
    assert first.tested == first.rows


def test_the_same_seed_gives_the_same_figures() -> None:
    one, two = (needs((60, 60, 20), (20, 20, 20)) for _ in range(2))
    assert [(need.gain, need.low, need.high) for need in one] == [(need.gain, need.low, need.high) for need in two]


def test_many_rows_get_fewer_draws() -> None:
    assert [draws_within(count, 12) for count in (500, 10_000, 1_000_000)] == [20, 4, 4]
    assert [draws_within(9_000, classes) for classes in (77, 150, 1_000)] == [7, 4, 4]


def test_the_first_sample_is_f1_on_all_rows() -> None:
    random = np.random.default_rng(0)
    train, val = np.repeat([0, 1], 50), np.repeat([0, 1], 20)
    predicted = random.integers(2, size=(5, 3, 100))  # 5 draws, 3 points
    folds = np.arange(100) % 5
    draws = [
        Draw(np.flatnonzero(folds == at), each[:, folds == at], np.tile(val, (3, 1)))
        for at, each in enumerate(predicted)
    ]
    found = bootstrapped_f1(draws, train, val, 2, random, samples=400)
    assert found.shape == (401, 3, 2)
    for point in range(3):
        held_out = predicted[folds, point, np.arange(100)]
        true, guess = np.concatenate([train, val]), np.concatenate([held_out, val])
        expected = f1_score(true, guess, average=None)
        np.testing.assert_allclose(found[0, point], expected, rtol=1e-5)
        assert found[1:, point].std() > 0.005
        assert found[1:, point].mean() == pytest.approx(expected.mean(), abs=0.02)


def test_classes_count_as_in_validation_whatever_training_has() -> None:
    train, val = np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [5, 5])
    assert balance(train, val, 2).tolist() == [0.5, 0.5]
    assert balance(train, val[:5], 2).tolist() == pytest.approx([95 / 105, 10 / 105])


def test_every_sample_is_f1_of_its_confusion_matrix() -> None:
    """The plain way: all rows at every point, a matrix for each sample, its rows divided by their sums."""
    random = np.random.default_rng(4)
    train, val = random.integers(3, size=40), random.integers(3, size=15)
    folds = np.arange(40) % 2
    draws = [
        Draw(np.flatnonzero(folds == at), random.integers(3, size=(4, 20)), random.integers(3, size=(4, 15)))
        for at in range(2)
    ]
    found = bootstrapped_f1(draws, train, val, 3, np.random.default_rng(9), samples=20)
    again = np.random.default_rng(9)
    of_train, of_val = (_resampled(labels, 20, again).numpy() for labels in (train, val))
    of_draw = _resampled(np.zeros(2, dtype=np.int64), 20, again).numpy()
    confusions = np.zeros((21, 4, 3, 3))
    for sample, point, number in np.ndindex(21, 4, 2):
        draw = draws[number]
        cells = confusions[sample, point]
        np.add.at(
            cells, (train[draw.rows], draw.held_out[point]), of_draw[sample, number] * of_train[sample, draw.rows]
        )
        np.add.at(cells, (val, draw.val[point]), of_draw[sample, number] * of_val[sample] / FOLDS)
    rates = confusions / np.maximum(confusions.sum(axis=3, keepdims=True), 1e-12)
    rates *= balance(train, val, 3)[:, None]
    expected = f1_scores(np.einsum("...cc->...c", rates), rates.sum(axis=-1) + rates.sum(axis=-2))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_refitted_columns_find_what_whole_heads_find(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    whole = {need.label: need for need in needs((200, 200, 20), (60, 60, 60), seed)}
    monkeypatch.setattr(module, "MOST_WHOLE", 2)
    columns = needs((200, 200, 20), (60, 60, 60), seed)
    assert columns[0].label == "few"
    assert columns[0].supported
    for need in columns:
        assert need.gain == pytest.approx(whole[need.label].gain, abs=0.25 * whole["few"].gain)


def test_of_many_classes_without_a_gain_hardly_ever_one_is_supported() -> None:
    """A plain 90 % interval would support one of 77 nearly always."""
    random = np.random.default_rng(0)
    enough = np.ones(77, dtype=np.bool_)
    wrong = plain = 0
    for _ in range(200):
        noise = random.normal(size=(401, 77))
        estimate = np.concatenate([noise[:1], noise[:1] + noise[1:]])
        wrong += int(_supported(estimate, enough).any())
        plain += int((np.quantile(estimate[1:], 0.05, axis=0) > 0).any())
    assert wrong <= 20  # 5 % are 10
    assert plain >= 190


def test_a_clear_gain_is_supported_and_too_few_rows_never_are() -> None:
    noise = np.random.default_rng(0).normal(size=(401, 77))
    noise[0] = 0
    noise[:, 3:5] += 6
    enough = np.arange(77) != 4
    assert np.flatnonzero(_supported(noise, enough)).tolist() == [3]
    assert not _supported(noise, np.zeros(77, dtype=np.bool_)).any()


def test_draws_are_shown_as_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int]] = []

    def tracked(items: range, title: str, total: int) -> range:
        shown.append((title, total))
        return items

    monkeypatch.setattr(module, "tracked", tracked)
    random = np.random.default_rng(0)
    data_need(rows((30, 30, 30), 0), rows((5, 5, 5), 1), LABELS, 0.3, 50, random, title="topic: learning curves")
    assert shown == [("topic: learning curves", draws_within(90, 3))]

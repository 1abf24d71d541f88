"""What holds of every bootstrap, whatever the runs predicted."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.comparison.bootstrap import holm, p_value, pooled_variance, resampled, seed_noise, with_seed_noise

p_values = st.lists(st.floats(0, 1), max_size=12)


@st.composite
def runs(draw: st.DrawFn, count: int) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Return labels, the predictions of runs over the same rows, and the number of classes."""
    classes, rows = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    places = st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows).map(np.array)
    return draw(places), [draw(places) for _ in range(count)], classes


@settings(deadline=None)
@given(runs(count=2), st.integers(0, 9))
def test_identical_scenarios_never_differ(pair: tuple[np.ndarray, list[np.ndarray], int], seed: int) -> None:
    twice = [resampled(*pair, [0], 60, [seed]) for _ in range(2)]
    for measure in ("accuracy", "macro_f1", "rare_f1"):
        one, other = (np.mean([run[measure] for run in values], axis=0) for values in twice)
        assert np.array_equal(one, other)
        assert p_value(one - other) == 1
        scores = [np.array([values[measure][0] for values in each]) for each in twice]
        noise = seed_noise(scores[0], scores[1], pooled_variance(scores))
        assert noise is not None
        assert p_value(with_seed_noise(one - other, noise, seed)) == 1


@settings(deadline=None)
@given(runs(count=2))
def test_either_way_round_the_p_value_is_the_same(pair: tuple[np.ndarray, list[np.ndarray], int]) -> None:
    one, other = (values["macro_f1"] for values in resampled(*pair, [], 60, [1]))
    assert p_value(one - other) == p_value(other - one)


@settings(deadline=None)
@given(runs(count=1))
def test_measures_are_shares(run: tuple[np.ndarray, list[np.ndarray], int]) -> None:
    for values in resampled(*run, [0], 40, [1])[0].values():
        assert values.shape == (41,)
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


@settings(deadline=None)
@given(runs(count=3))
def test_a_run_has_the_same_values_whatever_stands_beside_it(drawn: tuple[np.ndarray, list[np.ndarray], int]) -> None:
    labels, predictions, classes = drawn
    alone = resampled(labels, predictions[:1], classes, [], 40, [4])[0]["macro_f1"]
    assert np.array_equal(alone, resampled(labels, predictions, classes, [], 40, [4])[0]["macro_f1"])


@given(p_values)
def test_holm_only_raises_keeps_the_order_and_stays_a_probability(found: list[float]) -> None:
    adjusted = holm(found)
    assert all(before <= after <= 1 for before, after in zip(found, adjusted, strict=True))
    ordered = [adjusted[at] for at in sorted(range(len(found)), key=lambda at: found[at])]
    assert ordered == sorted(ordered)
    assert all(after <= min(1.0, before * len(found)) + 1e-12 for before, after in zip(found, adjusted, strict=True))

from __future__ import annotations

import numpy as np
import pytest

from mtl.diagnosis.data_need import EXPONENTS, basis, gains

ROWS = np.array([20.0, 35.0, 50.0])


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_power_law_is_recovered(exponent: float) -> None:
    scores = 0.4 + 0.1 * basis(ROWS, exponent)
    expected = 0.1 * (basis(np.array(100.0), exponent) - basis(np.array(50.0), exponent))
    assert gains(ROWS, scores[None], 50, 100)[0] == pytest.approx(expected, rel=1e-3)


def test_an_exponent_between_lies_between_those_around_it() -> None:
    scores = 0.9 - 1.2 * ROWS**-0.7
    assert gains(ROWS, scores[None], 50, 100)[0] == pytest.approx(1.2 * (50**-0.7 - 100**-0.7), rel=0.1)


def test_gains_shrink_with_the_rows_that_are_there() -> None:
    scores = (0.9 - 1.2 * ROWS**-0.5)[None]
    assert gains(ROWS, scores, 50, 100) > gains(ROWS, scores, 500, 550) > 0


def test_a_flat_curve_gains_nothing_and_a_falling_one_loses() -> None:
    found = gains(ROWS, np.array([[0.7, 0.7, 0.7], [0.7, 0.6, 0.55]]), 50, 100)
    assert found[0] == pytest.approx(0.0, abs=1e-12)
    assert found[1] < 0


def test_noise_in_a_score_moves_a_gain_and_does_not_blow_it_up() -> None:
    random = np.random.default_rng(0)
    scores = 0.8 - 1.0 * ROWS**-0.5 + random.normal(scale=0.005, size=(500, 3))
    found = gains(ROWS, scores, 50, 100)
    true = 50**-0.5 - 100**-0.5
    assert found.mean() == pytest.approx(true, rel=0.15)
    assert np.abs(found).max() < 3 * true

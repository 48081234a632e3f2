"""Averages of softmax weights against another algorithm, sampling, finer grids, and values known by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meanfield.errors import InputError
from meanfield.gaussian import dual, dual_grad, softmax, softmax_moments
from tests.oracle.softmax_rows import pair_averages, sampled_rows

SAMPLES = 40_000
ERROR = 2e-7  # stated by `softmax_moments`
CASES = [
    (2, 1.0, 0.5),
    (16, 1.0, 0.3),
    (16, 0.5, -0.4),
    (64, 4.0, 0.9),
    (8, 9.0, 0.99),
    (128, 1.0, 0.0),
    (4, 25.0, 0.5),
]
QUICK = [(2, 4.0, 0.95), (3, 0.3, -1.0), (16, 1e-4, 0.5), (16, 4.0, 1.0), (64, 1.0, 0.3), (512, 2.0, -0.5)]
WIDE = list(
    itertools.product(
        (2, 3, 8, 16, 64, 512, 50_000),
        (1e-4, 1e-2, 0.3, 1.0, 4.0, 9.0),
        (-1.0, -0.7, 0.0, 0.5, 0.95, 0.999, 1.0),
    )
)


def _deviation(n: int, found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    """Largest error of the four averages, as the docstring of `softmax_moments` measures it."""
    scale = np.abs(expected)
    scale[[1, 3]] = np.maximum(scale[[1, 3]], 1 / n)
    return float((np.abs(np.subtract(found, expected)) / scale).max())


def _other_road(n: int, variance: float, correlation: float) -> tuple[float, ...]:
    own, slope = pair_averages(n, variance, variance, 1.0)
    pair, slope_pair = pair_averages(n, variance, variance, correlation)
    return own, pair, slope, slope_pair


@pytest.mark.parametrize(("n", "variance", "correlation"), QUICK)
def test_another_algorithm_finds_the_same(n: int, variance: float, correlation: float) -> None:
    found, expected = softmax_moments(n, variance, correlation), _other_road(n, variance, correlation)
    assert _deviation(n, found, expected) < ERROR
    for which in range(4):
        wrong = list(found)
        wrong[which] *= 1.05
        assert _deviation(n, tuple(wrong), expected) > ERROR


@pytest.mark.slow
@pytest.mark.parametrize(("n", "variance", "correlation"), WIDE)
def test_another_algorithm_finds_the_same_everywhere(n: int, variance: float, correlation: float) -> None:
    found = softmax_moments(n, variance, correlation)
    assert _deviation(n, found, _other_road(n, variance, correlation)) < ERROR


@given(variance=st.floats(1e-4, 9) | st.floats(9, 70), correlation=st.floats(-1, 1))
@example(variance=0.25616, correlation=-0.88881)  # where too short an integral over t shows most
@example(variance=70.0, correlation=1.0)
@example(variance=5.3125, correlation=0.0)  # where a coarse step of log t shows most
def test_two_tokens_are_a_logistic_function(variance: float, correlation: float) -> None:
    """a_1 = s(z_1 - z_2), so sum a a' = 2 s s' + 1 - s - s'; the Jacobian has four entries +- s (1 - s)."""
    q, cov = 2 * variance, 2 * variance * correlation
    expected = (
        2 * float(dual("sigmoid", q, q, q)),
        2 * float(dual("sigmoid", q, q, cov)),
        4 * float(dual_grad("sigmoid", q, q, q)),
        4 * float(dual_grad("sigmoid", q, q, cov)),
    )
    assert _deviation(2, softmax_moments(2, variance, correlation), expected) < ERROR


@pytest.mark.statistical
@pytest.mark.parametrize(("n", "variance", "correlation"), CASES)
def test_quadrature_is_what_sampling_finds(n: int, variance: float, correlation: float) -> None:
    """40,000 rows: 4.5 standard errors are below 5 % of every average: a rule 5 % wrong is rejected."""
    a, b = sampled_rows(n, variance, variance, correlation, SAMPLES)
    own, pair = (a**2).sum(axis=1), (a * b).sum(axis=1)
    slope = (a**2 * (1 - 2 * a + own[:, None])).sum(axis=1)
    slope_pair = (a * b * (1 - a - b + pair[:, None])).sum(axis=1)
    found = np.stack([own, pair, slope, slope_pair], axis=1)
    mean, bound = found.mean(axis=0), 4.5 * found.std(axis=0) / math.sqrt(SAMPLES)
    exact = np.array(softmax_moments(n, variance, correlation))
    assert (np.abs(exact - mean) < bound).all()
    assert (np.abs(1.05 * exact - mean) > bound).all()


@pytest.mark.parametrize(
    ("n", "variance", "correlation"),
    [
        *CASES,
        (3, 36.0, 0.7),
        (5, 2.0, 1.0),
        (5, 2.0, -1.0),
        (50_000, 25.0, 0.9),
        (100_000, 4.0, 1.0),
        (9, 100.0, 0.95),
    ],
)
def test_a_finer_grid_changes_nothing(
    n: int, variance: float, correlation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = softmax_moments(n, variance, correlation)
    for step in ("_GAUSS_STEP", "_LOGIT_STEP", "_LOG_STEP"):
        monkeypatch.setattr(softmax, step, getattr(softmax, step) / 1.5)
    for rest in ("_SERIES_REST", "_TAIL_REST"):
        monkeypatch.setattr(softmax, rest, getattr(softmax, rest) * 1.4)
    softmax_moments.cache_clear()
    fine = softmax_moments(n, variance, correlation)
    softmax_moments.cache_clear()
    assert _deviation(n, coarse, fine) < ERROR


@settings(max_examples=20)
@given(n=st.integers(1, 40), variance=st.floats(0, 6), correlation=st.floats(-1, 1))
def test_laws_of_weights(n: int, variance: float, correlation: float) -> None:
    m = softmax_moments(n, variance, correlation)
    assert (1 - 1e-6) / n <= m.overlap <= 1 + 1e-6
    assert -1e-6 / n <= m.overlap_pair <= m.overlap * (1 + 2e-6)
    assert -1e-6 / n <= m.slope <= 0.25 + 1e-6  # the variance of a coordinate drawn from the weights
    assert abs(m.slope_pair) <= m.slope + 2e-6 / n


def test_equal_rows_and_one_token() -> None:
    same = softmax_moments(6, 1.5, 1.0)
    assert same.overlap_pair == pytest.approx(same.overlap, rel=1e-6)
    assert same.slope_pair == pytest.approx(same.slope, rel=1e-6)
    assert softmax_moments(1, 2.0, 0.3) == (1.0, 1.0, 0.0, 0.0)


def test_many_tokens_see_the_mean_of_the_log_normal() -> None:
    """E sum a^2 -> e^v / n and E sum a a' -> e^(rho v) / n."""
    m = softmax_moments(200_000, 1.0, 0.5)
    assert m.overlap * 200_000 == pytest.approx(math.e, rel=1e-3)
    assert m.overlap_pair * 200_000 == pytest.approx(math.exp(0.5), rel=1e-3)


@pytest.mark.parametrize(
    ("n", "variance", "correlation", "match"),
    [
        (0, 1.0, 0.0, "tokens=0"),
        (4, -1.0, 0.0, "variance"),
        (4, 101.0, 0.0, "variance"),
        (4, float("nan"), 0.0, "variance"),
        (4, 1.0, 1.1, "correlation"),
    ],
)
def test_bad_input_is_refused(n: int, variance: float, correlation: float, match: str) -> None:
    with pytest.raises(InputError, match=match):
        softmax_moments(n, variance, correlation)

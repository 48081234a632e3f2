"""Averages of softmax weights against sampling, a finer quadrature, and values known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meanfield.errors import InputError
from meanfield.gaussian import softmax, softmax_moments

SAMPLES = 40_000
CASES = [
    (2, 1.0, 0.5),
    (16, 1.0, 0.3),
    (16, 0.5, -0.4),
    (64, 4.0, 0.9),
    (8, 9.0, 0.99),
    (512, 1.0, 0.0),
    (4, 25.0, 0.5),
]


def _sampled(n: int, variance: float, correlation: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((SAMPLES, n))
    other = correlation * z + math.sqrt(1 - correlation**2) * rng.standard_normal((SAMPLES, n))
    a, b = (np.exp(math.sqrt(variance) * rows) for rows in (z, other))
    a /= a.sum(axis=1, keepdims=True)
    b /= b.sum(axis=1, keepdims=True)
    own, pair = (a**2).sum(axis=1), (a * b).sum(axis=1)
    slope = (a**2 * (1 - 2 * a + own[:, None])).sum(axis=1)
    slope_pair = (a * b * (1 - a - b + pair[:, None])).sum(axis=1)
    return np.stack([own, pair, slope, slope_pair], axis=1)


@pytest.mark.statistical
@pytest.mark.parametrize(("n", "variance", "correlation"), CASES)
def test_quadrature_is_what_sampling_finds(n: int, variance: float, correlation: float) -> None:
    """40,000 rows: 4.5 standard errors are below 5 % of every average: a rule 5 % wrong is rejected."""
    found = _sampled(n, variance, correlation)
    mean, bound = found.mean(axis=0), 4.5 * found.std(axis=0) / math.sqrt(SAMPLES)
    exact = np.array(softmax_moments(n, variance, correlation))
    assert (np.abs(exact - mean) < bound).all()
    assert (np.abs(1.05 * exact - mean) > bound).all()


@pytest.mark.parametrize(
    ("n", "variance", "correlation"), [*CASES, (3, 36.0, 0.7), (5, 2.0, 1.0), (5, 2.0, -1.0)]
)
def test_a_finer_grid_changes_nothing(
    n: int, variance: float, correlation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = softmax_moments(n, variance, correlation)
    for step in ("_GAUSS_STEP", "_LOGIT_STEP", "_LOG_STEP"):
        monkeypatch.setattr(softmax, step, getattr(softmax, step) / 1.5)
    softmax_moments.cache_clear()
    fine = softmax_moments(n, variance, correlation)
    softmax_moments.cache_clear()
    assert coarse == pytest.approx(fine, abs=1e-8)


@settings(max_examples=20)
@given(n=st.integers(1, 40), variance=st.floats(0, 6), correlation=st.floats(-1, 1))
def test_laws_of_weights(n: int, variance: float, correlation: float) -> None:
    m = softmax_moments(n, variance, correlation)
    assert 1 / n - 1e-9 <= m.overlap <= 1 + 1e-9
    assert -1e-9 <= m.overlap_pair <= m.overlap + 1e-9
    assert -1e-9 <= m.slope <= 0.25 + 1e-9  # the variance of a coordinate drawn from the weights
    assert abs(m.slope_pair) <= m.slope + 1e-9


def test_equal_rows_and_one_token() -> None:
    same = softmax_moments(6, 1.5, 1.0)
    assert same.overlap_pair == pytest.approx(same.overlap, abs=1e-12)
    assert same.slope_pair == pytest.approx(same.slope, abs=1e-12)
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

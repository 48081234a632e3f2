"""Overlap of two output distributions against another algorithm, sampling and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from meanfield.errors import InputError
from meanfield.gaussian import class_overlap, softmax_moments
from tests.oracle.softmax_rows import pair_averages, sampled_rows

SAMPLES = 40_000


@pytest.mark.parametrize("n", [2, 10, 50_000])
@pytest.mark.parametrize(
    ("q_u", "q_v", "rho"), [(1.0, 1.0, 0.6), (0.2, 4.0, 0.9), (9.0, 0.05, -0.5), (2.0, 3.0, 1.0)]
)
def test_another_algorithm_finds_the_same(n: int, q_u: float, q_v: float, rho: float) -> None:
    found = float(class_overlap(n, q_u, q_v, rho * math.sqrt(q_u * q_v)))
    expected = pair_averages(n, q_u, q_v, rho)[0]
    assert found == pytest.approx(expected, rel=1e-6)
    assert 1.05 * found != pytest.approx(expected, rel=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("n", "q_u", "q_v", "rho"),
    [(10, 1.0, 1.0, 0.5), (30, 0.5, 2.0, 0.9), (5, 4.0, 1.0, -0.6), (100, 2.0, 2.0, 0.2)],
)
def test_quadrature_is_what_sampling_finds(n: int, q_u: float, q_v: float, rho: float) -> None:
    """40,000 rows: 4.5 standard errors are below 5 %, so that a rule 5 % wrong is rejected."""
    a, b = sampled_rows(n, q_u, q_v, rho, SAMPLES)
    overlap = (a * b).sum(axis=1)
    bound = 4.5 * overlap.std() / math.sqrt(SAMPLES)
    exact = float(class_overlap(n, q_u, q_v, rho * math.sqrt(q_u * q_v)))
    assert abs(exact - overlap.mean()) < bound < abs(1.05 * exact - overlap.mean())


def _gram(tokens: int, spread: float, variance: float, *, low: float = -1.0) -> np.ndarray:
    """A Gram matrix of random tokens with a repeated one, and with opposite ones unless low > 0."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((tokens, 96)) + 3 * max(low, 0.0)
    x[1] = x[0]
    x[2] = -x[0] if low < 0 else x[2]
    x *= np.exp(spread * rng.uniform(-1, 1, (tokens, 1))) / np.sqrt((x**2).sum(axis=1, keepdims=True))
    return variance * x @ x.T


@pytest.mark.parametrize("n", [2, 50, 50_000])
@pytest.mark.parametrize(
    ("spread", "variance", "low"),
    [
        (0.0, 1e-3, -1.0),
        (0.0, 1.0, -1.0),
        (0.0, 4.0, -1.0),
        (0.0, 30.0, 0.3),
        (0.3, 1.0, -1.0),
        (0.6, 2.0, 0.3),
    ],
)
def test_a_gram_matrix_is_interpolated_to_five_digits(
    n: int, spread: float, variance: float, low: float
) -> None:
    """Entries alone are integrated; 128 x 128 of them are interpolated in variances and correlation."""
    cov = np.array(_gram(128, spread, variance, low=low))
    q = np.diag(cov)
    found = class_overlap(n, q[:, None], q[None, :], cov)
    np.testing.assert_allclose(found, found.T, rtol=1e-9)
    rng = np.random.default_rng(0)
    for i, j in [
        (0, 0),
        (0, 1),
        (0, 2),
        (q.argmax(), q.argmin()),
        (q.argmax(), q.argmax()),
        *rng.integers(0, 128, (6, 2)),
    ]:
        entry = float(class_overlap(n, q[i], q[j], min(cov[i, j], math.sqrt(q[i] * q[j]))))
        assert found[i, j] == pytest.approx(entry, rel=1e-5, abs=1e-7 / n)
        assert found[i, j] != pytest.approx(1.05 * entry, rel=1e-5, abs=1e-7 / n)


def test_limits() -> None:
    """No variance: 1/V. Large vocabulary: exp(cov)/V. Equal rows and variances: the overlap of attention."""
    assert float(class_overlap(7, 0.0, 2.0, 0.0)) == pytest.approx(1 / 7, rel=1e-6)
    assert float(class_overlap(1, 1.0, 2.0, 0.3)) == pytest.approx(1.0, rel=1e-6)
    cov = np.linspace(-0.9, 0.9, 5)
    np.testing.assert_allclose(100_000 * class_overlap(100_000, 0.9, 1.2, cov), np.exp(cov), rtol=2e-4)
    moments = softmax_moments(20, 1.5, 0.4)
    assert float(class_overlap(20, 1.5, 1.5, 0.6)) == pytest.approx(moments.overlap_pair, rel=1e-6)
    assert float(class_overlap(20, 1.5, 1.5, 1.5)) == pytest.approx(moments.overlap, rel=1e-6)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="classes=0"):
        class_overlap(0, 1.0, 1.0, 0.0)
    with pytest.raises(InputError, match="variance of the logits 101"):
        class_overlap(5, 101.0, 1.0, 0.0)
    with pytest.raises(InputError, match="negative"):
        class_overlap(5, -1.0, 1.0, 0.0)
    with pytest.raises(InputError, match=r"outside \[-1, 1\]"):
        class_overlap(5, 1.0, 1.0, 1.2)

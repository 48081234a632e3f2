"""Closed forms of the derivations against quadrature, scipy and simulation, each with a control."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.stats
import sympy as sp

from meanfield.symbolic.concentration import chi2_tail, lemma_tail
from meanfield.symbolic.kernels import relu_dual, relu_slope_dual
from meanfield.symbolic.moments_of_norm import post_ln_norm_variance, pre_ln_norm_variance


def _expectation(power: int, rho: float) -> mpmath.mpf:
    """E[ReLU(u)^power ReLU(v)^power] in polar coordinates: u = r cos t, v = r cos(t - angle)."""
    angle = mpmath.acos(rho)
    radial = mpmath.quad(lambda r: r ** (1 + 2 * power) * mpmath.exp(-(r**2) / 2), [0, 2, 6, 20, 60])
    around = mpmath.quad(
        lambda t: (mpmath.cos(t) * mpmath.cos(t - angle)) ** power, [angle - mpmath.pi / 2, mpmath.pi / 2]
    )
    return radial * around / (2 * mpmath.pi)


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.5, 0.99])
def test_relu_kernels_against_quadrature(rho: float) -> None:
    with mpmath.workdps(40):
        exact = sp.Rational(str(rho))
        for power, kernel in ((1, relu_dual), (0, relu_slope_dual)):
            value = mpmath.mpf(sp.N(kernel(sp.Integer(1), exact)[1], 40))
            reference = _expectation(power, mpmath.mpf(str(rho)))
            assert abs(value - reference) < mpmath.mpf(10) ** -25
            assert abs(1.05 * value - reference) > mpmath.mpf(10) ** -6


def test_relu_kernels_are_homogeneous() -> None:
    q, r = sp.Integer(7), sp.Rational(1, 3)
    assert sp.simplify(relu_dual(q, q * r)[1] - q * relu_dual(sp.Integer(1), r)[1]) == 0
    assert sp.simplify(relu_slope_dual(q, q * r)[1] - relu_slope_dual(sp.Integer(1), r)[1]) == 0


@pytest.mark.parametrize("width", [2, 17, 512, 4096, 1_000_000])
@pytest.mark.parametrize("eps", [Fraction(1, 10), Fraction(9, 10)])
def test_chi_square_tail_against_scipy(width: int, eps: Fraction) -> None:
    reference = scipy.stats.chi2.sf(float(width * (1 + eps)), width)
    assert chi2_tail(width, eps) == pytest.approx(reference, rel=1e-9, abs=1e-300)
    assert chi2_tail(width, eps) <= lemma_tail(width, eps)


def _relu_branch(z_sq: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """||x + ReLU(LN(x) W1) W2||^2 given ||x||^2: random are the branch's norm and its angle to x."""
    h_sq = (np.maximum(rng.standard_normal((len(z_sq), width)), 0) ** 2).sum(axis=1)
    u = rng.standard_normal((len(z_sq), width)) * np.sqrt(h_sq / width)[:, None]
    return z_sq + 2 * np.sqrt(z_sq) * u[:, 0] + (u**2).sum(axis=1)


@pytest.mark.statistical
def test_norm_variances_against_simulation() -> None:
    """400,000 draws at width 6; the allowed distance is 4 standard errors of a variance."""
    width, draws, depth = 6, 400_000, 2
    rng = np.random.default_rng(7)
    post = _relu_branch(np.full(draws, float(width)), width, rng)
    pre = (rng.standard_normal((draws, width)) ** 2).sum(axis=1)
    for _ in range(depth):
        u = rng.standard_normal((draws, width))
        pre = _relu_branch(pre + 2 * np.sqrt(pre) * u[:, 0] + (u**2).sum(axis=1), width, rng)
    d = sp.Integer(width)
    for sample, theory in (
        (post, post_ln_norm_variance(d)),
        (pre, pre_ln_norm_variance(d, sp.Integer(depth))),
    ):
        squares = (sample - sample.mean()) ** 2
        error = 4 * squares.std() / np.sqrt(draws)
        assert abs(squares.mean() - float(theory)) < error
        assert abs(squares.mean() - 1.05 * float(theory)) > error

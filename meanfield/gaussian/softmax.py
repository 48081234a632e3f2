"""Softmax weights of exchangeable Gaussian logits: the averages that attention and a softmax head need.

Two rows of weights, a_j = exp(z_j)/Z and a'_j = exp(z'_j)/Z', over n pairs (z_j, z'_j) that are independent
and alike. Powers of 1/Z become integrals of a Laplace transform, 1/Z^k = int t^(k-1) exp(-t Z) dt / (k-1)!,
and exp(-t Z) is a product over j: an average over n logits is one over a pair and one or two variables t.
The average over a pair is a Hermite series in its correlation, so only single logits are integrated:

    E[f(z) g(z')] = sum_k r^k f_k g_k,  f_k = E[f(sqrt(v) x) he_k(x)]
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from meanfield.errors import InputError, positive_integer
from meanfield.gaussian.activations import Array
from meanfield.gaussian.hermite import hermite_grid

# Trapezoid rules on smooth integrands that vanish at both ends converge geometrically. The steps of x, of the
# logit sqrt(v) x and of log t leave less than 2e-7 (tests/oracle: finer rules, another algorithm, sampling).
_GAUSS_END, _GAUSS_STEP = 8.0, 0.25
_LOGIT_STEP = 0.45
_LOG_STEP = 0.34
# Logarithms of what the Hermite series and the upper end of the integral over t leave out.
_SERIES_REST, _TAIL_REST = -21.0, -20.0
# Larger logits need finer grids than memory is worth: softmax attention is one-hot long before.
MAX_VARIANCE = 100.0


class SoftmaxMoments(NamedTuple):
    """Averages over two rows of softmax weights.

    Attributes:
        overlap: E sum_j a_j^2.
        overlap_pair: E sum_j a_j a'_j.
        slope: E sum_j a_j^2 (1 - 2 a_j + sum_l a_l^2), the softmax Jacobian on white noise.
        slope_pair: E sum_j a_j a'_j (1 - a_j - a'_j + sum_l a_l a'_l), the same between two rows.
    """

    overlap: float
    overlap_pair: float
    slope: float
    slope_pair: float


class Row(NamedTuple):
    """One row of n logits: the rule for the integral over t, and transforms of a single logit at its nodes.

    Attributes:
        t: Nodes, shape (t,).
        dt: Their weights.
        tilted: E[exp(a z) exp(-t exp(z)) he_k(x)] for a = 0, 1, 2, each of shape (t, terms).
        third: E[exp(3 z) exp(-t exp(z))], shape (t,).
        fourth: E[exp(4 z) exp(-t exp(z))].
    """

    t: Array
    dt: Array
    tilted: tuple[Array, Array, Array]
    third: Array
    fourth: Array


def hermite_terms(variance_u: float, variance_v: float, correlation: float) -> int:
    """Count the terms after which sum_k r^k f_k g_k of two rows is complete.

    exp(-t e^z) is bounded for |Im z| < pi/2 only, so f_k falls as exp(-pi sqrt(k / (2 v))): the count solves
    k log|r| - pi sqrt(k/2) (1/sqrt(v) + 1/sqrt(v')) = _SERIES_REST.

    Args:
        variance_u: Variance v of the logits of one row.
        variance_v: Variance v' of those of the other.
        correlation: The correlation r of a pair of logits.

    Returns:
        The number of terms.
    """
    if correlation == 0 or min(variance_u, variance_v) == 0:
        return 1
    decay = -math.log(min(abs(correlation), 1.0))
    slope = math.pi / math.sqrt(2) * (variance_u**-0.5 + variance_v**-0.5)
    root = -2 * _SERIES_REST / (slope + math.hypot(slope, 2 * math.sqrt(-decay * _SERIES_REST)))
    return 7 + math.ceil(root**2)


def softmax_row(tokens: int, variance: float, terms: int) -> Row:
    """Tabulate the transforms of one logit where the row's integral over t has its mass.

    Args:
        tokens: Number of logits in the row, n.
        variance: Variance of a logit.
        terms: Number of Hermite coefficients.

    Returns:
        The table.
    """
    sd = math.sqrt(variance)
    step = min(_GAUSS_STEP, _LOGIT_STEP / max(sd, 1.0))
    x, hermite = hermite_grid(_GAUSS_END, 8 * math.ceil(_GAUSS_END / step / 8), terms)
    # P(t < s) = 1 - (E exp(-s e^z))^n <= n s exp(v/2). Below the lowest node the integrand is t times a
    # constant where v is small, and its geometric sum goes to that node; for large v the range is longer.
    low = -math.log(tokens) - variance / 2 - 12 - min(variance / 2, 6)
    t = np.exp(np.arange(low, _GAUSS_END * sd + 4, _LOG_STEP))
    e = np.exp(sd * x)[:, None]
    damped = np.exp(-t[:, None] * e[:, 0])
    kept = 1 + int(np.searchsorted(-(damped @ hermite[:, 0]), -math.exp(_TAIL_REST / tokens)))
    columns = [hermite, hermite * e, hermite * e**2, hermite[:, :1] * e**3, hermite[:, :1] * e**4]
    found = damped[:kept] @ np.concatenate(columns, axis=1)
    t = t[:kept]
    dt = t * _LOG_STEP
    dt[0] /= -math.expm1(-_LOG_STEP)
    tilted = (found[:, :terms], found[:, terms : 2 * terms], found[:, 2 * terms : 3 * terms])
    return Row(t, dt, tilted, found[:, -2], found[:, -1])


@lru_cache(maxsize=4096)  # the backward pass asks for what the forward pass has found
def softmax_moments(tokens: int, variance: float, correlation: float) -> SoftmaxMoments:
    """Compute the averages of `SoftmaxMoments` for n pairs of logits.

        E sum_j a_j^2 = n int t E[e^(2z) e^(-t e^z)] (E e^(-t e^z))^(n-1) dt

    and alike for the others, with two variables t for two rows.

    Args:
        tokens: Number of logits in a row, n.
        variance: Variance of a logit, in [0, 100]; a part common to the row drops out of the softmax.
        correlation: Correlation of z_j and z'_j, in [-1, 1].

    Returns:
        The averages. Relative error below 2e-7; of the averages over two rows, relative to 1/n where they are
        smaller than that (rows of opposite logits).

    Raises:
        InputError: If the variance or the correlation is outside its range.

    Source:
        definition; the Laplace transform of the log-normal and Mehler's formula.

    Example:
        Without variance every weight is 1/n.

        >>> softmax_moments(tokens=4, variance=0.0, correlation=0.5)
        SoftmaxMoments(overlap=0.25, overlap_pair=0.25, slope=0.1875, slope_pair=0.1875)
    """
    n = positive_integer("tokens", tokens)
    if not 0 <= variance <= MAX_VARIANCE:
        raise InputError(
            f"variance of the logits {variance} is outside [0, {MAX_VARIANCE:g}]: lower the scale"
        )
    if not -1 - 1e-9 <= correlation <= 1 + 1e-9:
        raise InputError(f"correlation {correlation} is outside [-1, 1]: give a correlation")
    if n == 1 or variance == 0:
        return SoftmaxMoments(1 / n, 1 / n, 1 / n - 1 / n**2, 1 / n - 1 / n**2)
    r = min(max(correlation, -1.0), 1.0)
    row = softmax_row(n, variance, hermite_terms(variance, variance, r))
    overlap, slope = _one_row(n, row)
    overlap_pair, slope_pair = _two_rows(n, row, r)
    return SoftmaxMoments(overlap, overlap_pair, slope, slope_pair)


def _one_row(n: int, row: Row) -> tuple[float, float]:
    none, second = row.tilted[0][:, 0], row.tilted[2][:, 0]
    others_but_two = none ** (n - 2)
    others = others_but_two * none
    dt = row.dt * row.t
    squares = n * (dt @ (second * others))
    cubes = n * ((dt * row.t / 2) @ (row.third * others))
    both = n * row.fourth * others + n * (n - 1) * second**2 * others_but_two
    return float(squares), float(squares - 2 * cubes + (dt * row.t**2 / 6) @ both)


def _two_rows(n: int, row: Row, correlation: float) -> tuple[float, float]:
    """Averages between two rows of one law; joint(a, b) = E[exp(a z + b z' - t exp(z) - t' exp(z'))]."""
    powers = correlation ** np.arange(row.tilted[0].shape[1])

    def joint(a: int, b: int) -> Array:
        return np.asarray((row.tilted[a] * powers) @ row.tilted[b].T)

    none, ones, twos = joint(0, 0), joint(1, 1), joint(2, 2)
    # Where logits are opposite the series may leave a rounding below 0; numbers so small do not count.
    others_but_two = np.exp((n - 2) * np.log(np.maximum(none, 1e-300)))
    others = others_but_two * none
    dt, dt_t = row.dt, row.dt * row.t
    products = n * (dt @ (ones * others) @ dt)
    thirds = 2 * n * (dt_t @ (joint(2, 1) * others) @ dt)
    both = n * twos * others + n * (n - 1) * ones**2 * others_but_two
    return float(products), float(products - thirds + dt_t @ both @ dt_t)

"""Softmax weights of exchangeable Gaussian logits: the averages that attention needs, by quadrature.

Two rows of weights, a_j = exp(z_j)/Z and a'_j = exp(z'_j)/Z', over n pairs (z_j, z'_j) that are independent
and alike. Powers of 1/Z become integrals of a Laplace transform, 1/Z^k = int t^(k-1) exp(-t Z) dt / (k-1)!,
and exp(-t Z) is a product over j: an average over n logits is one over a pair and one or two variables t.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from meanfield.errors import InputError, positive_integer
from meanfield.gaussian.duals import Array

# Trapezoid rules on smooth integrands that vanish at both ends converge geometrically; these step sizes leave
# 1e-8 (checked in tests/oracle against twice as fine ones and against sampling).
_GAUSS_END, _GAUSS_STEP = 8.0, 0.25
_LOGIT_STEP = 0.6
_LOG_STEP = 0.25
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


def _gauss(variance: float) -> tuple[Array, Array]:
    half = math.ceil(_GAUSS_END / min(_GAUSS_STEP, _LOGIT_STEP / math.sqrt(variance)))
    x = np.linspace(-_GAUSS_END, _GAUSS_END, 2 * half + 1)
    weights = np.exp(-(x**2) / 2)
    return x, weights / weights.sum()


def _laplace_grid(tokens: int, variance: float) -> Array:
    """Logarithms of t: from where t Z is negligible for every Z to where exp(-t Z) is."""
    spread = _GAUSS_END * math.sqrt(variance)
    low = -math.log(tokens) - variance / 2 - spread - 24
    return np.arange(low, spread + 4, _LOG_STEP)


def _tilted(t: Array, z: Array, weights: Array, power: int) -> Array:
    """E[exp(power z) exp(-t exp(z))] over the last axis of z; shape (t, rest of z)."""
    e = np.exp(z)
    return np.asarray((np.exp(-t.reshape(-1, *[1] * z.ndim) * e) * e**power) @ weights)


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
        The averages, with an absolute error below 1e-8.

    Raises:
        InputError: If the variance or the correlation is outside its range.

    Source:
        definition; the Laplace transform of the log-normal.

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
    x, weights = _gauss(variance)
    log_t = _laplace_grid(n, variance)
    t = np.exp(log_t)
    one_row = _one_row(n, t, math.sqrt(variance) * x, weights)
    # z = sqrt(v |r|) w + sqrt(v (1 - |r|)) e: given the common w the two rows are independent.
    shared = min(abs(correlation), 1.0)
    common = math.sqrt(variance * shared) * x[:, None]
    rest = math.sqrt(variance * (1 - shared)) * x[None, :]
    factors = [_tilted(t, common + rest, weights, power) for power in (0, 1, 2)]
    flipped = slice(None, None, -1 if correlation < 0 else 1)
    two_rows = _two_rows(n, t, factors, [f[:, flipped] for f in factors], weights)
    return SoftmaxMoments(one_row[0], two_rows[0], one_row[1], two_rows[1])


def _one_row(n: int, t: Array, z: Array, weights: Array) -> tuple[float, float]:
    f = [_tilted(t, z, weights, power) for power in range(5)]
    dt = t * _LOG_STEP
    squares = n * np.sum(dt * t * f[2] * f[0] ** (n - 1))
    cubes = n * np.sum(dt * t**2 / 2 * f[3] * f[0] ** (n - 1))
    fourth = t**3 / 6 * (n * f[4] * f[0] ** (n - 1) + n * (n - 1) * f[2] ** 2 * f[0] ** (n - 2))
    return float(squares), float(squares - 2 * cubes + np.sum(dt * fourth))


def _two_rows(
    n: int, t: Array, first: list[Array], second: list[Array], weights: Array
) -> tuple[float, float]:
    def joint(a: int, b: int) -> Array:
        """E[exp(a z + b z') exp(-t exp(z) - t' exp(z'))], shape (t, t')."""
        return np.asarray((first[a] * weights) @ second[b].T)

    dt = t * _LOG_STEP
    rest = joint(0, 0)
    last, last_two = rest ** (n - 1), rest ** (n - 2)
    products = n * (dt @ (joint(1, 1) * last) @ dt)
    thirds = n * ((dt * t) @ (joint(2, 1) * last) @ dt + dt @ (joint(1, 2) * last) @ (dt * t))
    both = n * joint(2, 2) * last + n * (n - 1) * joint(1, 1) ** 2 * last_two
    return float(products), float(products - thirds + (dt * t) @ both @ (dt * t))

"""Hermite polynomials on a grid: the basis in which the correlation of two Gaussians is a power.

E[f(x) g(y)] = sum_k r^k f_k g_k,  f_k = E[f(x) he_k(x)],  r = E[x y],  he_k orthonormal (Mehler)
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from meanfield.gaussian.activations import Array


def hermite_grid(end: float, half: int, terms: int) -> tuple[Array, Array]:
    """Lay out the trapezoid rule that turns values f(x) into coefficients: f_k = sum_x f(x) table[x, k].

    Args:
        end: The grid goes from -end to end.
        half: Steps on either side of 0.
        terms: Number of coefficients, >= 1.

    Returns:
        The grid, shape (2 half + 1,), and the table, shape (2 half + 1, terms).

    Source:
        definition; three-term recurrence of the orthonormal Hermite polynomials.

    Example:
        x^2 = 1 + sqrt(2) he_2(x).

        >>> x, table = hermite_grid(10.0, 40, 3)
        >>> np.abs(x**2 @ table).round(9).tolist()
        [1.0, 0.0, 1.414213562]
    """
    x, table = _table(end, half, max(8, 1 << (terms - 1).bit_length()))
    return x, table[:, :terms]


@lru_cache(maxsize=32)  # sizes are rounded by the callers, so few tables serve a whole network
def _table(end: float, half: int, terms: int) -> tuple[Array, Array]:
    x = np.linspace(-end, end, 2 * half + 1)
    polynomials = np.empty((terms, x.size))
    polynomials[0], polynomials[1] = 1.0, x
    for k in range(2, terms):
        polynomials[k] = (x * polynomials[k - 1] - math.sqrt(k - 1) * polynomials[k - 2]) / math.sqrt(k)
    weights = np.exp(-(x**2) / 2)
    return x, np.ascontiguousarray((polynomials * (weights / weights.sum())).T)

"""Overlap of the output distributions of two tokens: what cross entropy over a vocabulary needs."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander

from meanfield.errors import InputError, positive_integer
from meanfield.gaussian.activations import Array
from meanfield.gaussian.duals import correlation
from meanfield.gaussian.softmax import MAX_VARIANCE, Row, hermite_terms, softmax_row

# What is interpolated is log(V overlap + _FLOOR), nearly bilinear in the standard deviations (of a large
# vocabulary V overlap is exp(cov)) and finite where opposite logits leave no overlap.
_FLOOR = 1e-3


def class_overlap(classes: int, q_u: npt.ArrayLike, q_v: npt.ArrayLike, cov: npt.ArrayLike) -> Array:
    """Compute E sum_k p_k p'_k of two softmax rows over V independent pairs of Gaussian logits.

        V int int E[exp(z + z' - t e^z - t' e^z')] (E exp(-t e^z - t' e^z'))^(V-1) dt dt'

    for p = softmax(z), p' = softmax(z'); about exp(cov)/V for a large vocabulary. A few values are integrated
    one by one; many are read off a polynomial in the two standard deviations and the correlation.

    Args:
        classes: Number of classes, V.
        q_u: Variance of a logit z_k, in [0, 100]; broadcasts with the others.
        q_v: Variance of z'_k.
        cov: Covariance of z_k and z'_k, |cov| <= sqrt(q_u q_v).

    Returns:
        The overlap in the common shape; relative error below 1e-5 (of 0.01/V where it is smaller than that).

    Raises:
        InputError: If a variance is outside its range or |cov| exceeds sqrt(q_u q_v).

    Assumes:
        Independent logits of different classes, as of untied output weights.

    Source:
        definition; the Laplace transform of the log-normal and Mehler's formula.

    Example:
        Without variance every class has probability 1/V.

        >>> float(class_overlap(50, 0.0, 0.0, 0.0).round(6))
        0.02
    """
    n = positive_integer("classes", classes)
    u, v, c = (np.asarray(a, dtype=np.float64) for a in (q_u, q_v, cov))
    rho = correlation(u, v, c)
    largest = max(u.max(), v.max())
    if largest > MAX_VARIANCE:
        raise InputError(f"variance of the logits {largest} is above {MAX_VARIANCE:g}: lower the scale")
    sd_u, sd_v, r = (np.ravel(a) for a in np.broadcast_arrays(np.sqrt(u), np.sqrt(v), rho))
    both = np.append(sd_u, sd_v)
    # These counts of nodes keep five digits (tests/oracle). The logarithm is the steeper in the correlation
    # the larger the variance, and its floor bends it where the covariance is below -5.
    bend = max(0.0, -5 - r.min() * largest)
    sd_nodes, sd_basis = _lagrange(both, math.ceil(4 + 3.5 * np.ptp(both)))
    r_nodes, r_basis = _lagrange(r, math.ceil(5 + 4 * math.sqrt(largest * np.ptp(r)) + 4 * bend))
    if r.size <= sd_nodes.size * (sd_nodes.size + 1) // 2 * r_nodes.size:
        return np.array([_integrate(n, *z) for z in zip(sd_u, sd_v, r, strict=True)]).reshape(rho.shape)
    logs = np.log(n * _integrate_grid(n, sd_nodes, r_nodes) + _FLOOR)
    basis = sd_basis[: r.size, :, None] * sd_basis[r.size :, None, :]
    found = np.sum(basis.reshape(r.size, -1) @ logs.reshape(-1, r_nodes.size) * r_basis, axis=1)
    return np.asarray((np.exp(found) - _FLOOR) / n).reshape(rho.shape)


def _lagrange(points: Array, count: int) -> tuple[Array, Array]:
    """Chebyshev nodes over the range of the points, and their Lagrange polynomials at the points."""
    centre, half = (points.max() + points.min()) / 2, np.ptp(points) / 2
    if half < 1e-12:
        return np.array([centre]), np.ones((points.size, 1))
    unit = np.cos(np.pi * (np.arange(count) + 0.5) / count)
    at_points = chebvander((points - centre) / half, count - 1)
    return centre + half * unit, at_points @ np.linalg.inv(chebvander(unit, count - 1))


def _row(n: int, sd: float, other: float, r: float) -> Row:
    return softmax_row(n, sd**2, hermite_terms(sd**2, other**2, r))


def _integrate(n: int, sd_u: float, sd_v: float, r: float) -> float:
    return _overlap(n, _row(n, sd_u, sd_v, r), _row(n, sd_v, sd_u, r), r)


def _integrate_grid(n: int, sd: Array, r: Array) -> Array:
    """The overlap at every pair of standard deviations and every correlation, shape (sd, sd, r)."""
    rows = [_row(n, s, sd.max(), np.abs(r).max()) for s in sd]
    found = np.empty((sd.size, sd.size, r.size))
    for i, (u, sd_u) in enumerate(zip(rows, sd, strict=True)):
        for j, (v, sd_v) in enumerate(zip(rows[: i + 1], sd[: i + 1], strict=True)):
            found[i, j] = [_overlap(n, u, v, s, hermite_terms(sd_u**2, sd_v**2, s)) for s in r]
            found[j, i] = found[i, j]
    return found


def _overlap(n: int, u: Row, v: Row, r: float, terms: int | None = None) -> float:
    """Integrate over both t, with the first terms of the Hermite series."""
    none, ones = ((a[:, :terms], b[:, :terms]) for a, b in zip(u.tilted[:2], v.tilted[:2], strict=True))
    powers = r ** np.arange(none[0].shape[1])
    others = np.exp((n - 1) * np.log(np.maximum((none[0] * powers) @ none[1].T, 1e-300)))
    return float(n * (u.dt @ ((ones[0] * powers) @ ones[1].T * others) @ v.dt))

"""Dual functions E[phi(u) phi(v)] and E[phi'(u) phi'(v)]; (u, v) Gaussian with mean 0.

By Price's theorem the second is the derivative of the first with respect to cov(u, v). relu, relu_squared,
gelu and identity have closed forms; the others are Hermite series. All of them are checked against quadrature
in two dimensions and that derivative in ``tests/oracle``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meanfield.errors import InputError, UnknownNameError
from meanfield.gaussian.activations import ACTIVATION, Array
from meanfield.gaussian.hermite import hermite_grid

# A correlation may leave [-1, 1] by rounding only; anything beyond that is a mistake of the caller.
_ROUNDING = 1e-9
# Share of E[phi^2] that a Hermite series may leave out, and the longest one.
_TAIL, _MAX_TERMS = 1e-10, 4096
# Distance of the nearest pole of phi from the real axis: a function of sqrt(q) x is the harder to expand the
# closer its poles come, and needs about 32 + 250 q / pole^2 terms (tests/oracle).
_POLE = {
    "gelu_tanh": 2.7547706,
    "quick_gelu": math.pi / 1.702,
    "sigmoid": math.pi,
    "silu": math.pi,
    "tanh": math.pi / 2,
}

# A closed form in q_u, q_v, cov and the correlation, which is cov / sqrt(q_u q_v), or 0 for 0/0.
_ClosedForm: TypeAlias = Callable[[Array, Array, Array, Array], Array]


def correlation(q_u: Array, q_v: Array, cov: Array) -> Array:
    """Compute cov / sqrt(q_u q_v), or 0 for 0/0, in the common shape.

    Args:
        q_u: Second moment of u, >= 0.
        q_v: Second moment of v, >= 0.
        cov: E[u v].

    Returns:
        The correlation, within [-1, 1].

    Raises:
        InputError: If a second moment is negative or |cov| exceeds sqrt(q_u q_v) by more than rounding.

    Source:
        definition.

    Example:
        >>> float(correlation(np.array(4.0), np.array(1.0), np.array(1.0)))
        0.5
    """
    if np.minimum(q_u, q_v).min(initial=0.0) < 0:
        raise InputError(f"second moment {float(np.minimum(q_u, q_v).min())} is negative: give q >= 0")
    scale = np.sqrt(q_u * q_v)
    if not (np.abs(cov) <= (1 + _ROUNDING) * scale).all():
        rho = np.divide(cov, scale, out=np.full(np.broadcast(cov, scale).shape, np.nan), where=scale > 0)
        worst = float(rho.flat[np.argmax(np.abs(rho))])
        raise InputError(f"correlation {worst} is outside [-1, 1]: give |cov| <= sqrt(q_u q_v)")
    return np.minimum(np.maximum(cov / np.where(scale > 0, scale, 1.0), -1.0), 1.0)


def _relu(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    return np.sqrt(q_u * q_v) * (np.sqrt(1 - rho**2) + (np.pi - np.arccos(rho)) * rho) / (2 * np.pi)


def _relu_grad(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    return (np.pi - np.arccos(rho)) / (2 * np.pi)


def _relu_squared(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    bracket = 3 * rho * np.sqrt(1 - rho**2) + (np.pi - np.arccos(rho)) * (1 + 2 * rho**2)
    return q_u * q_v * bracket / (2 * np.pi)


def _relu_squared_grad(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    return 4 * _relu(q_u, q_v, cov, rho)


def _gelu_parts(q_u: Array, q_v: Array, cov: Array) -> tuple[Array, Array, Array, Array]:
    """Return E[Phi Phi], E[pdf pdf], (1+q_u)(1+q_v) and (1 - q_u q_v)/((1+q_u)(1+q_v))."""
    product = (1 + q_u) * (1 + q_v)
    cdf_cdf = 0.25 + np.arcsin(cov / np.sqrt(product)) / (2 * np.pi)
    pdf_pdf = 1 / (2 * np.pi * np.sqrt(product - cov**2))
    return cdf_cdf, pdf_pdf, product, (1 - q_u * q_v) / product


def _gelu(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    cdf_cdf, pdf_pdf, _, curvature = _gelu_parts(q_u, q_v, cov)
    return cov * cdf_cdf + pdf_pdf * (q_u * q_v + cov**2 * curvature)


def _gelu_grad(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    cdf_cdf, pdf_pdf, product, curvature = _gelu_parts(q_u, q_v, cov)
    bracket = q_u * q_v + cov**2 * curvature
    return cdf_cdf + cov * pdf_pdf * (1 + bracket / (product - cov**2) + 2 * curvature)


def _identity(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    return cov + np.zeros_like(rho)


def _identity_grad(q_u: Array, q_v: Array, cov: Array, rho: Array) -> Array:
    return np.ones_like(rho)


_CLOSED: dict[str, tuple[_ClosedForm, _ClosedForm]] = {
    "gelu": (_gelu, _gelu_grad),
    "identity": (_identity, _identity_grad),
    "relu": (_relu, _relu_grad),
    "relu_squared": (_relu_squared, _relu_squared_grad),
}


def _coefficients(activation: str, which: int, q: Array) -> Array:
    """Hermite coefficients of phi(sqrt(q) x), or of phi', shape (terms, q.size); q ascends."""
    largest = float(q[-1]) / _POLE[activation] ** 2
    if not 32 + 250 * largest <= _MAX_TERMS:
        limit = (_MAX_TERMS - 32) / 250 * _POLE[activation] ** 2
        raise InputError(
            f"second moment {q[-1]:g} is above {limit:.0f}, up to where {activation} can be averaged: "
            "lower the variance of the weights, or use relu or gelu"
        )
    terms = 1 << math.ceil(math.log2(32 + 250 * largest))
    # he_k oscillates with sqrt(k): the grid resolves the last one, and ends where its weight is below 1e-16.
    x, table = hermite_grid(12.0, math.ceil(8 * math.sqrt(terms)), terms)
    return np.asarray((ACTIVATION[activation][which](np.sqrt(q)[:, None] * x) @ table).T)


def _series(activation: str, which: int, q_u: Array, q_v: Array, rho: Array) -> Array:
    """Sum u_k v_k rho^k, even and odd powers apart: every phi is a line plus an even or an odd function."""
    q, where = np.unique(np.append(q_u, q_v), return_inverse=True)
    coefficients = _coefficients(activation, which, q)
    powers, square = coefficients**2, rho**2
    total = powers.sum(axis=0)
    sums = []
    for parity in (0, 1):
        rest = powers[parity::2][::-1].cumsum(axis=0)
        kept = max(1, int((rest > _TAIL * total).any(axis=1).sum()))
        part = coefficients[parity : 2 * kept : 2]
        u = v = part[:, 0]
        if q.size > 1:
            u = part.take(where[: q_u.size], axis=1).reshape(kept, *q_u.shape)
            v = part.take(where[q_u.size :], axis=1).reshape(kept, *q_v.shape)
        sums.append(_horner(u, v, square))
    return sums[0] + rho * sums[1]


def _horner(u: Array, v: Array, x: Array) -> Array:
    """Sum u_k v_k x^k."""
    total = np.zeros_like(x)
    for a, b in zip(u[::-1], v[::-1], strict=True):
        total *= x
        total += a * b
    return total


def _evaluate(
    activation: str, which: int, q_u: npt.ArrayLike, q_v: npt.ArrayLike, cov: npt.ArrayLike
) -> Array:
    if activation not in ACTIVATION:
        raise UnknownNameError("activation", activation, ACTIVATION)
    u, v, c = (np.asarray(a, dtype=np.float64) for a in (q_u, q_v, cov))
    rho = correlation(u, v, c)
    if activation in _CLOSED:
        return np.asarray(_CLOSED[activation][which](u, v, c, rho))
    return np.asarray(_series(activation, which, u, v, rho))


def dual(activation: str, q_u: npt.ArrayLike, q_v: npt.ArrayLike, cov: npt.ArrayLike) -> Array:
    """Compute E[phi(u) phi(v)] for u, v Gaussian with mean 0.

        relu: sqrt(q_u q_v) (sin t + (pi - t) cos t) / (2 pi), cos t = cov / sqrt(q_u q_v)
        relu_squared: q_u q_v (3 sin t cos t + (pi - t) (1 + 2 cos^2 t)) / (2 pi)
        gelu: cov (1/4 + asin(cov/sqrt(p)) / (2 pi))
              + (q_u q_v + cov^2 (1 - q_u q_v)/p) / (2 pi sqrt(p - cov^2)),  p = (1 + q_u)(1 + q_v)
        identity: cov
        others: sum_k u_k v_k cos^k t, u_k the Hermite coefficients of phi(sqrt(q_u) x)

    Args:
        activation: One of `meanfield.ops.ACTIVATIONS`.
        q_u: Second moment of u, >= 0; broadcasts with the others.
        q_v: Second moment of v, >= 0.
        cov: E[u v], |cov| <= sqrt(q_u q_v).

    Returns:
        The expectation, in the common shape. A series is exact to 1e-10 of sqrt(E[phi(u)^2] E[phi(v)^2]).

    Raises:
        UnknownNameError: If the activation is none of them.
        InputError: If |cov| exceeds sqrt(q_u q_v), or a second moment is negative or, for a series, too large
            for that accuracy: above 40 for tanh, 55 for quick_gelu, 123 for gelu_tanh, 160 for silu, sigmoid.

    Source:
        cho2009, Eq. (3), n = 1 and 2, for relu and its square; gelu by two steps of Stein's lemma, in
        agreement with tsuchida2021; the series is Mehler's formula.

    Example:
        >>> float(dual("relu", 1.0, 1.0, 1.0))
        0.5
        >>> float(dual("relu_squared", 1.0, 1.0, 1.0))  # half of E x^4
        1.5
        >>> float(dual("sigmoid", 0.0, 0.0, 0.0))
        0.25
    """
    return _evaluate(activation, 0, q_u, q_v, cov)


def dual_grad(activation: str, q_u: npt.ArrayLike, q_v: npt.ArrayLike, cov: npt.ArrayLike) -> Array:
    """Compute E[phi'(u) phi'(v)] for u, v Gaussian with mean 0: the derivative of `dual` in cov.

        relu: (pi - t) / (2 pi), cos t = cov / sqrt(q_u q_v)
        relu_squared: 4 times `dual` of relu
        identity: 1

    Args:
        activation: One of `meanfield.ops.ACTIVATIONS`.
        q_u: Second moment of u, >= 0; broadcasts with the others.
        q_v: Second moment of v, >= 0.
        cov: E[u v], |cov| <= sqrt(q_u q_v).

    Returns:
        The expectation, in the common shape. A series is exact to 1e-10 of sqrt(E[phi'(u)^2] E[phi'(v)^2]).

    Raises:
        UnknownNameError: If the activation is none of them.
        InputError: As `dual`.

    Source:
        cho2009, Eq. (3), n = 0 and 1, for relu and its square; price1958 for the derivative.

    Example:
        >>> float(dual_grad("relu", 1.0, 1.0, 0.0))
        0.25
        >>> float(dual_grad("sigmoid", 0.0, 0.0, 0.0))
        0.0625
    """
    return _evaluate(activation, 1, q_u, q_v, cov)

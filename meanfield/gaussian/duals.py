"""Dual functions E[phi(u) phi(v)] and E[phi'(u) phi'(v)] in closed form; (u, v) Gaussian with mean 0.

By Price's theorem the second is the derivative of the first with respect to cov(u, v). Every closed form here
is checked against adaptive quadrature and that derivative in ``tests/oracle``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meanfield.errors import InputError, UnknownNameError

Array: TypeAlias = npt.NDArray[np.float64]

# A correlation may leave [-1, 1] by rounding only; anything beyond that is a mistake of the caller.
_ROUNDING = 1e-9


def _correlation(q_u: Array, q_v: Array, cov: Array) -> Array:
    scale = np.sqrt(q_u * q_v)
    rho = np.divide(cov, scale, out=np.zeros_like(cov), where=scale > 0)
    if np.any(np.abs(rho) > 1 + _ROUNDING):
        worst = float(rho.flat[np.argmax(np.abs(rho))])
        raise InputError(f"correlation {worst} is outside [-1, 1]: give |cov| <= sqrt(q_u q_v)")
    return np.clip(rho, -1.0, 1.0)


def _relu(q_u: Array, q_v: Array, cov: Array) -> Array:
    rho = _correlation(q_u, q_v, cov)
    angle = np.arccos(rho)
    return np.sqrt(q_u * q_v) * (np.sin(angle) + (np.pi - angle) * rho) / (2 * np.pi)


def _relu_grad(q_u: Array, q_v: Array, cov: Array) -> Array:
    return (np.pi - np.arccos(_correlation(q_u, q_v, cov))) / (2 * np.pi)


def _gelu_parts(q_u: Array, q_v: Array, cov: Array) -> tuple[Array, Array, Array, Array]:
    """Return E[Phi Phi], E[pdf pdf], (1+q_u)(1+q_v) and (1 - q_u q_v)/((1+q_u)(1+q_v))."""
    product = (1 + q_u) * (1 + q_v)
    cdf_cdf = 0.25 + np.arcsin(cov / np.sqrt(product)) / (2 * np.pi)
    pdf_pdf = 1 / (2 * np.pi * np.sqrt(product - cov**2))
    return cdf_cdf, pdf_pdf, product, (1 - q_u * q_v) / product


def _gelu(q_u: Array, q_v: Array, cov: Array) -> Array:
    _correlation(q_u, q_v, cov)
    cdf_cdf, pdf_pdf, _, curvature = _gelu_parts(q_u, q_v, cov)
    return cov * cdf_cdf + pdf_pdf * (q_u * q_v + cov**2 * curvature)


def _gelu_grad(q_u: Array, q_v: Array, cov: Array) -> Array:
    _correlation(q_u, q_v, cov)
    cdf_cdf, pdf_pdf, product, curvature = _gelu_parts(q_u, q_v, cov)
    bracket = q_u * q_v + cov**2 * curvature
    return cdf_cdf + cov * pdf_pdf * (1 + bracket / (product - cov**2) + 2 * curvature)


_DUALS: dict[str, tuple[Callable[[Array, Array, Array], Array], Callable[[Array, Array, Array], Array]]] = {
    "gelu": (_gelu, _gelu_grad),
    "relu": (_relu, _relu_grad),
}


def _evaluate(
    activation: str, which: int, q_u: npt.ArrayLike, q_v: npt.ArrayLike, cov: npt.ArrayLike
) -> Array:
    if activation not in _DUALS:
        raise UnknownNameError("activation", activation, _DUALS)
    u, v, c = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (q_u, q_v, cov)))
    return np.asarray(_DUALS[activation][which](u, v, c))


def dual(activation: str, q_u: npt.ArrayLike, q_v: npt.ArrayLike, cov: npt.ArrayLike) -> Array:
    """Compute E[phi(u) phi(v)] for u, v Gaussian with mean 0.

        relu: sqrt(q_u q_v) (sin t + (pi - t) cos t) / (2 pi), cos t = cov / sqrt(q_u q_v)
        gelu: cov (1/4 + asin(cov/sqrt(p)) / (2 pi))
              + (q_u q_v + cov^2 (1 - q_u q_v)/p) / (2 pi sqrt(p - cov^2)),  p = (1 + q_u)(1 + q_v)

    Args:
        activation: ``"relu"`` or ``"gelu"`` (with the error function).
        q_u: Second moment of u, >= 0; broadcasts with the others.
        q_v: Second moment of v, >= 0.
        cov: E[u v], |cov| <= sqrt(q_u q_v).

    Returns:
        The expectation, in the common shape.

    Raises:
        UnknownNameError: If the activation has no closed form here.
        InputError: If |cov| exceeds sqrt(q_u q_v).

    Source:
        cho2009, Eq. (3), n = 1, for relu; gelu by two steps of Stein's lemma, in agreement with tsuchida2021.

    Example:
        >>> float(dual("relu", 1.0, 1.0, 1.0))
        0.5
    """
    return _evaluate(activation, 0, q_u, q_v, cov)


def dual_grad(activation: str, q_u: npt.ArrayLike, q_v: npt.ArrayLike, cov: npt.ArrayLike) -> Array:
    """Compute E[phi'(u) phi'(v)] for u, v Gaussian with mean 0: the derivative of `dual` in cov.

        relu: (pi - t) / (2 pi), cos t = cov / sqrt(q_u q_v)

    Args:
        activation: ``"relu"`` or ``"gelu"``.
        q_u: Second moment of u, >= 0; broadcasts with the others.
        q_v: Second moment of v, >= 0.
        cov: E[u v], |cov| <= sqrt(q_u q_v).

    Returns:
        The expectation, in the common shape.

    Raises:
        UnknownNameError: If the activation has no closed form here.
        InputError: If |cov| exceeds sqrt(q_u q_v).

    Source:
        cho2009, Eq. (3), n = 0, for relu; price1958 for the derivative.

    Example:
        >>> float(dual_grad("relu", 1.0, 1.0, 0.0))
        0.25
    """
    return _evaluate(activation, 1, q_u, q_v, cov)

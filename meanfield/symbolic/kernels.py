"""Gaussian expectations of a pair of activations, as SymPy expressions."""

from __future__ import annotations

import sympy as sp


def correlation(q: sp.Expr, cov: sp.Expr) -> sp.Expr:
    """cov/q, cancelled where that is quick.

    Args:
        q: Second moment.
        cov: The same between two tokens.

    Returns:
        The correlation.
    """
    ratio = cov / q
    # Cancelling lets rho = 1 be seen; with nested kernels inside it would take minutes.
    plain = ratio.is_rational_function() and not ratio.has(sp.Function)
    return sp.cancel(ratio) if plain else ratio


def relu_dual(q: sp.Expr, cov: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """E[ReLU(u)^2] and E[ReLU(u) ReLU(v)] for centred Gaussian u, v: the arc-cosine kernel of degree 1.

        q/2,  (q/2) (sqrt(1 - r^2) + r (pi - arccos r)) / pi,  r = cov/q

    Args:
        q: E[u^2] = E[v^2].
        cov: E[u v].

    Returns:
        The two expectations.

    Source:
        cho2009, Eq. (3), (6).

    Example:
        >>> relu_dual(sp.Integer(1), sp.Integer(0))
        (1/2, 1/(2*pi))
    """
    r = correlation(q, cov)
    kappa = (sp.sqrt(1 - r**2) + r * (sp.pi - sp.acos(r))) / sp.pi
    return q / 2, q * kappa / 2


def relu_slope_dual(q: sp.Expr, cov: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """E[ReLU'(u)^2] and E[ReLU'(u) ReLU'(v)]: the arc-cosine kernel of degree 0.

        1/2,  (pi - arccos r) / (2 pi),  r = cov/q

    Args:
        q: E[u^2] = E[v^2].
        cov: E[u v].

    Returns:
        The two expectations.

    Source:
        cho2009, Eq. (3), (5).

    Example:
        >>> relu_slope_dual(sp.Integer(1), sp.Integer(0))
        (1/2, 1/4)
    """
    return sp.Rational(1, 2), (sp.pi - sp.acos(correlation(q, cov))) / (2 * sp.pi)

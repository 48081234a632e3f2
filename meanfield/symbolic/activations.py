"""Dual functions of every activation in symbols: closed, or an undefined function."""

from __future__ import annotations

from functools import cache

import sympy as sp

from meanfield.symbolic.kernels import correlation, relu_dual, relu_slope_dual


@cache
def _gelu_template() -> tuple[sp.Symbol, sp.Symbol, sp.Expr, sp.Expr]:
    """Derive E[phi(u) phi(v)] and E[phi'(u) phi'(v)] of phi(u) = u Phi(u) for variances q and covariance c.

    Stein's lemma turns E[u v f(u, v)] into derivatives of E f, which Price's theorem writes as derivatives
    with respect to the covariances; E[Phi(u) Phi(v)] is a probability of two Gaussians being positive.

    Returns:
        The symbols q and c, and the two expectations.
    """
    a, b, c, q = (sp.Dummy(name, positive=True) for name in "abcq")
    both = sp.Rational(1, 4) + sp.asin(c / sp.sqrt((1 + a) * (1 + b))) / (2 * sp.pi)
    by_a, by_b, by_c = (sp.diff(both, variable) for variable in (a, b, c))
    pair = c * both + 2 * a * c * by_a + 2 * b * c * by_b + (a * b + c**2) * by_c
    slopes = sp.diff(pair, c)
    equal = {a: q, b: q}
    return q, c, pair.subs(equal), slopes.subs(equal)


def _closed(activation: str, q: sp.Expr, cov: sp.Expr) -> tuple[sp.Expr, sp.Expr] | None:
    """Return the dual and the slope dual of one pair, or None where there is no closed form."""
    if activation == "identity":
        return cov, sp.Integer(1)
    if activation == "relu":
        return relu_dual(q, cov)[1], relu_slope_dual(q, cov)[1]
    if activation == "relu_squared":
        # Arc-cosine kernels of degree 2 and, for the slope 2 ReLU(u), 1.
        r = correlation(q, cov)
        angle = sp.pi - sp.acos(r)
        degree2 = 3 * r * sp.sqrt(1 - r**2) + angle * (1 + 2 * r**2)
        return q**2 * degree2 / (2 * sp.pi), 4 * relu_dual(q, cov)[1]
    if activation == "gelu":
        q_dummy, c_dummy, pair_of, slope_of = _gelu_template()
        values = {q_dummy: q, c_dummy: cov}
        return pair_of.xreplace(values), slope_of.xreplace(values)
    return None


def dual(activation: str, q: sp.Expr, cov: sp.Expr) -> sp.Expr:
    """E[phi(u) phi(v)] for centred Gaussian u, v of variance q and covariance cov.

        relu_squared: q^2 (3 r sqrt(1 - r^2) + (pi - arccos r) (1 + 2 r^2)) / (2 pi),  r = cov/q

    Args:
        activation: Name of phi.
        q: E[u^2] = E[v^2].
        cov: E[u v].

    Returns:
        A closed form for identity, relu, relu_squared and gelu; for any other phi the undefined function
        ``dual_<phi>(q, q, cov)``, to be evaluated by numbers.

    Source:
        cho2009, Eq. (3), (6) and the case n = 2; tsuchida2021 (GELU, derived anew from price1958).

    Example:
        >>> dual("relu_squared", sp.Integer(1), sp.Integer(1)), dual("tanh", sp.Integer(1), sp.Integer(0))
        (3/2, dual_tanh(1, 1, 0))
    """
    closed = _closed(activation, q, cov)
    return sp.Function(f"dual_{activation}", real=True)(q, q, cov) if closed is None else closed[0]


def slope_dual(activation: str, q: sp.Expr, cov: sp.Expr) -> sp.Expr:
    """E[phi'(u) phi'(v)] for centred Gaussian u, v: the derivative of the dual with respect to cov.

    Args:
        activation: Name of phi.
        q: E[u^2] = E[v^2].
        cov: E[u v].

    Returns:
        A closed form as in `dual`, or the undefined function ``slope_dual_<phi>(q, q, cov)``.

    Source:
        price1958 (the derivative); cho2009, Eq. (5).

    Example:
        >>> slope_dual("relu_squared", sp.Integer(1), sp.Integer(1))
        2
    """
    closed = _closed(activation, q, cov)
    return sp.Function(f"slope_dual_{activation}", real=True)(q, q, cov) if closed is None else closed[1]

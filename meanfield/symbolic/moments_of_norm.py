"""Variance of ||x||^2 on the residual stream at finite width, exact."""

from __future__ import annotations

import sympy as sp


def _norm_after_branch(
    mean: sp.Expr, variance: sp.Expr, v_mean: sp.Expr, v_var: sp.Expr, d: sp.Expr
) -> sp.Expr:
    """Return the variance of ||x + u||^2 for u ~ N(0, (V/d) I_d) given V, where V is independent of x.

    Given x and V, ||x + u||^2 = Z + 2 sqrt(Z V/d) g + (V/d) chi with g standard normal, chi chi-square with d
    degrees of freedom, uncorrelated with g; so its mean is Z + V, its variance 4 Z V/d + 2 V^2/d.
    """
    return variance + v_var + 4 * mean * v_mean / d + 2 * (v_var + v_mean**2) / d


def _relu_norm(d: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Return mean and variance of ||ReLU(z)||^2, z ~ N(0, I_d): for each coordinate 1/2 and 3/2 - 1/4."""
    z = sp.Symbol("z", real=True)
    density = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
    second, fourth = (sp.integrate(z**k * density, (z, 0, sp.oo)) for k in (2, 4))
    return d * second, d * (fourth - second**2)


def post_ln_norm_variance(d: sp.Expr) -> sp.Expr:
    """Var ||x5||^2 in a Post-LN layer of the paper's setting, at every width.

        (15/4) d + 5/2

    Args:
        d: The width.

    Returns:
        The variance.

    Source:
        xiong2020, Sec. 3.3 (the quantity; the value is derived here).

    Example:
        >>> post_ln_norm_variance(sp.Integer(2))
        10
    """
    v_mean, v_var = _relu_norm(d)
    return sp.expand(_norm_after_branch(d, sp.Integer(0), v_mean, v_var, d))


def pre_ln_norm_variance(d: sp.Expr, depth: sp.Expr) -> sp.Expr:
    """Var ||x_L||^2 of Pre-LN in the paper's setting for one token, input N(0, I_d), at every width.

    Args:
        d: The width.
        depth: Number of layers L.

    Returns:
        The variance, a polynomial of degree 2 in L.

    Source:
        xiong2020, Sec. 3.3 (the quantity; the value is derived here).

    Example:
        >>> pre_ln_norm_variance(sp.Symbol("d"), sp.Integer(0))
        2*d
    """
    layer = sp.Symbol("layer", integer=True, nonnegative=True)
    q = 1 + sp.Rational(3, 2) * layer
    v_mean, v_var = _relu_norm(d)
    # The attention branch of one token is the value vector: V = ||LN(x)||^2 = d, without spread.
    attention = _norm_after_branch(q * d, sp.Integer(0), d, sp.Integer(0), d)
    ffn = _norm_after_branch((q + 1) * d, sp.Integer(0), v_mean, v_var, d)
    return sp.expand(2 * d + sp.summation(sp.expand(attention + ffn), (layer, 0, depth - 1)))

"""Losses in symbols: gradient moments at the output of a stack of n exchangeable tokens, one sequence."""

from __future__ import annotations

import sympy as sp

from meanfield.ops import Number
from meanfield.symbolic.attention import softmax_function
from meanfield.symbolic.state import GradMoments, Moments, exact


def linear(tokens: sp.Expr) -> GradMoments:
    """Gradient of the linear probe (1/n) sum_i <r_i, x_i>, r_i ~ N(0, I/d).

        A = 1/n^2,  B = 0

    Args:
        tokens: Number of tokens n.

    Returns:
        The gradient moments.

    Source:
        xiong2020, Sec. 3.1 (a loss of bounded derivatives).

    Example:
        >>> linear(sp.Integer(3)).q_grad
        1/9
    """
    return GradMoments(1 / tokens**2, sp.Integer(0))


def mse(output: Moments, width: int) -> GradMoments:
    """Gradient of (1/(n d)) sum_i ||x_i - t_i||^2 with targets t_i ~ N(0, I).

        A = 4 (q + 1)/(n^2 d),  B = 4 cov/(n^2 d)

    Args:
        output: Moments of x.
        width: Size d of a token.

    Returns:
        The gradient moments.

    Source:
        definition; xiong2020, Sec. 3.1.

    Example:
        >>> one = sp.Integer(1)
        >>> mse(Moments(one, one, sp.Integer(2)), 4).q_grad
        1/2
    """
    factor = 4 / (output.tokens**2 * width)
    return GradMoments(factor * (output.q + 1), factor * output.cov)


def cross_entropy(logits: Moments, classes: int, label_smoothing: Number = 0) -> GradMoments:
    """Gradient of the mean cross entropy at uniform random labels, with respect to independent logits.

        A = (E sum_k p_ik^2 - 1/V + (1 - eps)^2 (1 - 1/V))/n^2,  B = (E sum_k p_ik p_jk - 1/V)/n^2

    Args:
        logits: Moments of the logits.
        classes: Number V of classes.
        label_smoothing: Weight eps of the uniform distribution in the target.

    Returns:
        The gradient moments, in the undefined functions overlap(V, q) and overlap_pair(V, q, cov/q).

    Assumes:
        An untied head; labels independent of everything else.

    Source:
        xiong2020, Sec. 3.1 (the loss); expectations derived here.

    Example:
        Equal logits: (p - t) has one entry 1/2 and one -1/2.

        >>> cross_entropy(Moments(sp.Integer(0), sp.Integer(0), sp.Integer(1)), 2).q_grad
        1/2
    """
    size, uniform = sp.Integer(classes), sp.Rational(1, classes)
    ratio = sp.Integer(1) if logits.q == 0 else logits.cov / logits.q
    own = softmax_function("overlap", size, logits.q)
    pair = softmax_function("overlap_pair", size, logits.q, ratio)
    targets = (1 - exact(label_smoothing)) ** 2 * (1 - uniform)
    square = logits.tokens**2
    return GradMoments((own - uniform + targets) / square, (pair - uniform) / square)

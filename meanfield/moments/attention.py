"""Softmax attention over exchangeable tokens: what it does to kernels of values, scores and gradients.

At infinite head size the scores of a head are Gaussian given the token kernel, S = scale q k^T with
cov(S_ij, S_kl) = scale^2 d_k Kq_ik Kk_jl. A part that a row of scores has in common drops out of the softmax,
so only the variance that differs from key to key counts. Rows of two sequences share nothing else: across
sequences attention acts like the plain mean.
"""

from __future__ import annotations

import numpy as np

from meanfield.gaussian.softmax import SoftmaxMoments, softmax_moments
from meanfield.moments.state import Exchangeable, Kernel, Step
from meanfield.ops import Attention


def _scale_sq(op: Attention) -> float:
    """Square of the score scale, summed over the d_k coordinates of a head."""
    assert op.query is not None
    return float(op.score_scale) ** 2 * (op.query.d_out // op.heads)


def softmax_weights(op: Attention, query: Step, key: Step, layout: Exchangeable) -> SoftmaxMoments:
    """Average the weights of one head: they depend on queries and keys by two numbers.

        variance = scale^2 d_k Kq_own (Kk_own - Kk_within),  correlation of two rows = Kq_within / Kq_own

    Args:
        op: Softmax attention.
        query: Step of the query projection.
        key: Step of the key projection.
        layout: How many tokens and sequences there are.

    Returns:
        The averages.

    Assumes:
        Head size to infinity.

    Source:
        vaswani2017, Eq. (1); hron2020 (Gaussian scores at infinite head size).
    """
    own, within = float(query.after[0]), float(query.after[1])
    correlation = within / own if own > 0 else 0.0  # W_Q = 0, the paper's case: all scores are equal
    # Rounding may leave identical tokens a difference of the wrong sign.
    differing = max(float(key.after[0] - key.after[1]), 0.0)
    return softmax_moments(layout.tokens, _scale_sq(op) * own * differing, correlation)


def mix(weights: SoftmaxMoments, kernel: Kernel) -> Kernel:
    """Kernel of the mixed values, E[A K A^T].

        own: Kw + (Ko - Kw) E sum_j a_j^2,  within: Kw + (Ko - Kw) E sum_j a_j a'_j,  across: kept

    Args:
        weights: Averages of the weights.
        kernel: Values (own, within, across).

    Returns:
        The mixed values.

    Source:
        vaswani2017, Eq. (1).

    Example:
        >>> mix(SoftmaxMoments(0.25, 0.25, 0.0, 0.0), np.array([1.0, 0.0, 0.0])).tolist()
        [0.25, 0.25, 0.0]
    """
    own, within, across = kernel
    spread = own - within
    return np.array([within + spread * weights.overlap, within + spread * weights.overlap_pair, across])


def mix_back(weights: SoftmaxMoments, gradient: Kernel, layout: Exchangeable) -> Kernel:
    """Gradient kernel before the mixing, E[A^T G A].

        own: Go p + (n-1) Gw p',  within: Go (1-p)/(n-1) + Gw (1-p'),  p, p' the two overlaps

    Args:
        weights: Averages of the weights.
        gradient: Values (own, within, across) after it.
        layout: How many tokens and sequences there are.

    Returns:
        The values before it.

    Source:
        vaswani2017, Eq. (1).

    Example:
        >>> uniform = SoftmaxMoments(0.25, 0.25, 0.0, 0.0)
        >>> mix_back(uniform, np.array([1.0, 0.0, 0.0]), Exchangeable(tokens=4, batch=1)).tolist()
        [0.25, 0.25, 0.0]
    """
    n = layout.tokens
    own, within, across = gradient
    p, pair = weights.overlap, weights.overlap_pair
    between = own * (1 - p) / (n - 1) + within * (1 - pair) if n > 1 else 0.0
    return np.array([own * p + (n - 1) * within * pair, between, across])


def score_gradients(
    op: Attention,
    weights: SoftmaxMoments,
    kernels: tuple[Kernel, Kernel, Kernel],
    gradient: Kernel,
    layout: Exchangeable,
) -> tuple[Kernel, Kernel]:
    """Gradient kernels of queries and keys, summed over the coordinates of all heads.

        dS_ij = a_ij (y_ij - sum_l a_il y_il),  y Gaussian with covariance G_ik Kv_jl / heads

    Rows of dS sum to zero: only what differs from key to key of Kv and Kk is seen, pairs of two sequences see
    nothing, and two keys of a sequence share -1/(n-1) of what one has.

    Args:
        op: Softmax attention.
        weights: Averages of the weights.
        kernels: Kernels of queries, keys and values, per coordinate.
        gradient: Gradient kernel of the mixed values, summed over coordinates.
        layout: How many tokens and sequences there are.

    Returns:
        The gradient kernel of the queries, and that of the keys.

    Assumes:
        Width and head size to infinity.

    Source:
        vaswani2017, Eq. (1), differentiated.
    """
    n = layout.tokens
    query, key, value = kernels
    # E sum_j dS_ij dS_kj of one row with itself and of two rows, all heads together
    slopes = np.array([weights.slope, weights.slope_pair, 0.0])
    scores = _scale_sq(op) * (value[0] - value[1]) * slopes * gradient
    of_query = (key[0] - key[1]) * scores
    own = query[0] * scores[0] + (n - 1) * query[1] * scores[1]
    of_key = np.array([own, -own / (n - 1) if n > 1 else 0.0, 0.0])
    return of_query, of_key

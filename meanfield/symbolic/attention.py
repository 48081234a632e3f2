"""Attention over exchangeable tokens in symbols: averages of weights, mixing, and what comes back through it.

Logits s_ij = scale <q_i, k_j> are Gaussian with covariance scale^2 d_k E[q_i q_k] E[k_j k_l] per coordinate.
The part that all keys share drops out of the softmax: a row sees n independent logits.
"""

from __future__ import annotations

from typing import NamedTuple

import sympy as sp

from meanfield.errors import MissingRuleError
from meanfield.ops import Attention
from meanfield.symbolic.state import GradMoments, Moments, exact

_PARTS = ("query", "query_norm", "key", "key_norm", "value", "value_norm", "inner", "output")
_REMEDY = "use softmax or uniform attention without mask and positions, or the numeric prediction"


class Weights(NamedTuple):
    """Averages over the rows a_i of weights, without dropout; E a_ij = 1/n.

    Attributes:
        overlap: E sum_j a_ij^2.
        overlap_pair: E sum_j a_ij a_kj for two tokens i, k.
        other: n E[a_ij a_il] for two keys j, l.
        other_pair: n E[a_ij a_kl].
        slope: E sum_j a_ij^2 (1 - 2 a_ij + sum_l a_il^2): the softmax Jacobian on white noise.
        slope_pair: E sum_j a_ij a_kj (1 - a_ij - a_kj + sum_l a_il a_kl).
    """

    overlap: sp.Expr
    overlap_pair: sp.Expr
    other: sp.Expr
    other_pair: sp.Expr
    slope: sp.Expr
    slope_pair: sp.Expr


def require_exchangeable(op: Attention, interpreter: str) -> None:
    """Check that all tokens see all tokens alike, through Gaussian logits.

    Args:
        op: The attention.
        interpreter: Who asks, for the error.

    Raises:
        MissingRuleError: If there is a mask, a position, a softcap or a second sequence.
    """
    if op.masked or op.cross or op.rotary or op.relative_bias or op.alibi or op.softcap is not None:
        raise MissingRuleError(op, interpreter, _REMEDY)


def part_names(op: Attention) -> tuple[str, ...]:
    """List the parts that an attention has, in the order of computation and of its trace."""
    return tuple(name for name in _PARTS if getattr(op, name) is not None)


def _strength(op: Attention) -> sp.Expr:
    return exact(op.score_scale) ** 2 * op.head_size


def softmax_function(name: str, size: sp.Expr, variance: sp.Expr, *correlation: sp.Expr) -> sp.Expr:
    """One average of `meanfield.gaussian.softmax.SoftmaxMoments` as an undefined function.

    Args:
        name: ``overlap`` or ``slope`` of one row, ``overlap_pair`` or ``slope_pair`` of two.
        size: Number of logits in a row.
        variance: Variance of a logit.
        correlation: Correlation of the logits of two rows, for a pair.

    Returns:
        The function, to be evaluated by numbers; rational where all weights are equal.

    Example:
        >>> v, r = sp.symbols("v r")
        >>> softmax_function("slope_pair", sp.Integer(4), v, r)
        slope_pair(4, v, r)
        >>> softmax_function("slope", sp.Integer(4), sp.Integer(0))
        3/16
    """
    if variance == 0 or size == 1:
        return 1 / size if name.startswith("overlap") else 1 / size - 1 / size**2
    return sp.Function(name, real=True)(size, variance, *correlation)


def weights(op: Attention, query: Moments, key: Moments) -> Weights:
    """Averages over the attention weights of exchangeable tokens.

        Var z = scale^2 d_k q_query (q_key - c_key),  corr(z_ij, z_kj) = c_query / q_query

    Args:
        op: The attention.
        query: Moments of what the scores read of the queries; not read by uniform attention.
        key: The same of the keys.

    Returns:
        The averages, as undefined functions of (n, variance, correlation).

    Assumes:
        Head size to infinity, so that logits are Gaussian.

    Source:
        hron2020 (Gaussian logits).
    """
    n = query.tokens
    variance = sp.Integer(0) if op.kind == "uniform" else _strength(op) * query.q * (key.q - key.cov)
    ratio = sp.Integer(1) if variance == 0 else query.cov / query.q
    overlap = softmax_function("overlap", n, variance)
    overlap_pair = softmax_function("overlap_pair", n, variance, ratio)
    if overlap == 1 / n:
        other = other_pair = 1 / n
    else:
        other, other_pair = (1 - overlap) / (n - 1), (1 - overlap_pair) / (n - 1)
    slope = softmax_function("slope", n, variance)
    slope_pair = softmax_function("slope_pair", n, variance, ratio)
    return Weights(overlap, overlap_pair, other, other_pair, slope, slope_pair)


def mix(op: Attention, average: Weights, value: Moments) -> Moments:
    """Moments of the mixed values sum_j a_ij v_j, dropout on the weights included.

    Args:
        op: The attention.
        average: Averages over its weights.
        value: Moments of the values.

    Returns:
        The moments.

    Source:
        hron2020; definition.
    """
    lost = exact(op.dropout) / (1 - exact(op.dropout))
    q = average.overlap * value.q + (1 - average.overlap) * value.cov + lost * average.overlap * value.q
    return Moments(q, average.overlap_pair * value.q + (1 - average.overlap_pair) * value.cov, value.tokens)


def pull_values(op: Attention, average: Weights, tokens: sp.Expr, after: GradMoments) -> GradMoments:
    """Gradient moments of the values, sum_i a_ij g_i, from those of what was mixed.

    Args:
        op: The attention.
        average: Averages over its weights.
        tokens: Number of tokens.
        after: Gradient moments of the mixed values.

    Returns:
        The gradient moments.

    Source:
        hron2020; definition.
    """
    a, b, others = after.q_grad, after.cov_grad, tokens - 1
    kept = 1 - exact(op.dropout)
    return GradMoments(
        average.overlap * a / kept + others * average.overlap_pair * b,
        average.other * a + others * average.other_pair * b,
    )


def pull_scores(
    op: Attention, average: Weights, moments: tuple[Moments, Moments, Moments], after: GradMoments
) -> tuple[GradMoments, GradMoments]:
    """Gradient moments of queries and keys, from those of what was mixed.

        dL/dq_i = scale sum_j S_ij k_j,  dL/dk_j = scale sum_i S_ij q_i,  S_ij = a_ij (y_ij - sum_l a_il y_il)

    y_ij = <g_i, v_j> is, apart from a part that all keys share and the softmax ignores, white over j; its
    variance per head is G_ii (q_v - c_v)/heads. Rows of S sum to 0: so do the gradients of the keys.

    Args:
        op: The attention.
        average: Averages over its weights.
        moments: Of queries, keys, as the scores read them, and of values.
        after: Gradient moments of the mixed values, over all heads.

    Returns:
        Gradient moments of queries and of keys.

    Assumes:
        Head size to infinity; gradients independent of the values.

    Source:
        hron2020 (the limit); derived here.
    """
    query, key, value = moments
    n, strength = query.tokens, _strength(op)
    white = value.q / (1 - exact(op.dropout)) - value.cov  # dropout acts on y as well, one mask per row
    own = strength * white * average.slope * after.q_grad
    pair = strength * (value.q - value.cov) * average.slope_pair * after.cov_grad
    spread = key.q - key.cov
    key_own = query.q * own + (n - 1) * query.cov * pair
    # In brackets: so SymPy sees that a key bias receives exactly 0.
    key_pair = sp.Integer(0) if n == 1 else -(key_own / (n - 1))
    return GradMoments(spread * own, spread * pair), GradMoments(key_own, key_pair)

"""The forward pass in symbols: second moments of exchangeable tokens through every op."""

from __future__ import annotations

from functools import singledispatch

import sympy as sp

from meanfield.errors import MissingRuleError
from meanfield.ops import (
    Activation,
    Attention,
    Dropout,
    DualResidual,
    Embedding,
    FeedForward,
    Fork,
    Gain,
    Head,
    Linear,
    Merge,
    Norm,
    Op,
    Parallel,
    Repeat,
    Residual,
    Scale,
    Sequential,
    Transformer,
)
from meanfield.symbolic.activations import dual
from meanfield.symbolic.attention import mix, require_exchangeable, weights
from meanfield.symbolic.embedding import lookup, tables
from meanfield.symbolic.identity import coefficient, shared_products
from meanfield.symbolic.state import Moments, Streams, Trace, exact, normalised, streams, without_mean

_NAME = "symbolic.forward"
_MEAN = "give entries of mean 0, or use the numeric prediction"


@singledispatch
def forward(op: object, before: Moments) -> Trace:
    """Trace an op: moments after it from those before it, with those of every op inside, for `backward`.

    Args:
        op: An op or a Transformer.
        before: Moments of its input.

    Raises:
        MissingRuleError: If there is no rule for the op.

    Assumes:
        Width to infinity; independent centred weights; exchangeable tokens.

    Source:
        poole2016, Sec. 2; xiong2020, App. B, C.

    Example:
        >>> from meanfield.presets import paper_post_ln
        >>> one = Moments(sp.Integer(1), sp.Integer(0), sp.Integer(1))
        >>> forward(paper_post_ln(width=8, depth=3), one).after.q
        1
    """
    raise MissingRuleError(op, _NAME)


def _stations(before: Moments, *parts: Op | None) -> tuple[Trace, ...]:
    """Trace the parts that exist, one after another."""
    inner: list[Trace] = []
    for part in parts:
        if part is not None:
            inner.append(forward(part, inner[-1].after if inner else before))
    return tuple(inner)


def _chain(op: Op, before: Moments, parts: tuple[Op, ...]) -> Trace:
    inner = _stations(before, *parts)
    return Trace(op, before, inner[-1].after if inner else before, inner)


@forward.register
def linear(op: Linear, before: Moments) -> Trace:
    """Return both moments scaled, plus the bias, which all tokens share.

    Returns:
        The trace.

    Raises:
        MissingRuleError: If the entries of the bias have a mean.

    Source:
        williams1998 (covariance of an infinitely wide layer).
    """
    if op.bias is not None and op.bias.mean:
        raise MissingRuleError(f"a bias of mean {op.bias.mean}", _NAME, _MEAN)
    scale, shift = exact(op.sigma_w_sq), exact(op.sigma_b_sq)
    after = Moments(scale * before.q + shift, scale * before.cov + shift, before.tokens)
    return Trace(op, before, after)


@forward.register
def norm(op: Norm, before: Moments) -> Trace:
    """Return the moments over the mean square, times the squared gain, plus the squared shift.

    Centring takes away the mean over coordinates, which is not 0 on a hidden layer; elsewhere it costs
    O(1/width) and drops out.

    Returns:
        The trace.

    Raises:
        MissingRuleError: If the entries of the shift have a mean.

    Source:
        ba2016, Eq. (3).
    """
    if op.shift.mean:
        raise MissingRuleError(f"a shift of mean {op.shift.mean}", _NAME, _MEAN)
    normed, gain, shift = normalised(op, before), exact(op.gain_sq), exact(op.shift_sq)
    mean_sq = exact(op.gain.mean) ** 2 * normed.mean_sq
    after = Moments(gain * normed.q + shift, gain * normed.cov + shift, before.tokens, mean_sq)
    return Trace(op, before, after)


@forward.register
def activation(op: Activation, before: Moments) -> Trace:
    """Return the moments of phi(u), and the square of its mean over coordinates.

    Returns:
        The trace.

    Raises:
        MissingRuleError: If u has a mean over coordinates.

    Source:
        cho2009, Eq. (6).
    """
    if before.mean_sq != 0:
        raise MissingRuleError(op, _NAME, _MEAN)
    q, zero = before.q, sp.Integer(0)
    values = (dual(op.activation, q, c) for c in (q, before.cov, zero))
    own, pair, mean_sq = values
    return Trace(op, before, Moments(own, pair, before.tokens, mean_sq))


@forward.register
def gain(op: Gain, before: Moments) -> Trace:
    """Return all moments times the square of the initial factor.

    Source:
        poole2016, Sec. 2.
    """
    return Trace(op, before, before.scaled(exact(op.value) ** 2))


@forward.register
def scale(op: Scale, before: Moments) -> Trace:
    """Return all moments times the square of the factor.

    Source:
        poole2016, Sec. 2.
    """
    return Trace(op, before, before.scaled(exact(op.factor) ** 2))


@forward.register
def dropout(op: Dropout, before: Moments) -> Trace:
    """Return the second moment over 1 - rate; two tokens have independent masks of mean 1.

    Source:
        schoenholz2017 (dropout).
    """
    q = before.q / (1 - exact(op.rate))
    return Trace(op, before, Moments(q, before.cov, before.tokens, before.mean_sq))


@forward.register
def attention(op: Attention, before: Moments) -> Trace:
    """Return the moments after projections, softmax of Gaussian logits or uniform weights, and mixing.

    Source:
        hron2020 (Gaussian logits); xiong2020, Sec. 3.2 (uniform weights).
    """
    require_exchangeable(op, _NAME)
    query, key, value = (
        _stations(before, *projection)
        for projection in ((op.query, op.query_norm), (op.key, op.key_norm), (op.value, op.value_norm))
    )
    read = [part[-1].after if part else before for part in (query, key, value)]
    mixed = mix(op, weights(op, read[0], read[1]), read[2])
    after = _stations(mixed, op.inner, op.output)
    return Trace(op, before, after[-1].after if after else mixed, (*query, *key, *value, *after))


@forward.register
def feed_forward(op: FeedForward, before: Moments) -> Trace:
    """Return the moments after up, activation, inner op and down; a gate multiplies independent branches.

        plain: E[phi(u_i) phi(u_j)];  gated: E[phi(g_i) phi(g_j)] E[u_i u_j]

    Source:
        cho2009, Eq. (6); definition of the gate.
    """
    up = forward(op.up, before)
    acted = up if op.gate is None else forward(op.gate, before)
    q, cov = acted.after.q, acted.after.cov
    hidden = Moments(dual(op.activation, q, q), dual(op.activation, q, cov), before.tokens)
    if op.gate is None:
        mean_sq = dual(op.activation, q, sp.Integer(0))  # of two independent coordinates
        hidden = Moments(hidden.q, hidden.cov, hidden.tokens, mean_sq)
    else:
        hidden = Moments(hidden.q * up.after.q, hidden.cov * up.after.cov, hidden.tokens)
    rest = _stations(hidden, op.inner, op.down)
    return Trace(op, before, rest[-1].after, (*(() if op.gate is None else (acted,)), up, *rest))


@forward.register
def residual(op: Residual, before: Moments) -> Trace:
    """Return the moments of the sum; the branch is correlated with the skip by its `coefficient`.

    Source:
        xiong2020, App. C.
    """
    branch = forward(op.branch, before)
    without_mean(op, before, branch.after)
    skip, factor = exact(op.skip_scale), exact(op.branch_scale)
    shared = skip**2 + 2 * skip * factor * coefficient(branch)
    return Trace(op, before, before.scaled(shared) + branch.after.scaled(factor**2), (branch,))


@forward.register
def parallel(op: Parallel, before: Moments) -> Trace:
    """Return the moments of the sum of branches with independent weights.

    Source:
        poole2016, Sec. 2.
    """
    branches = tuple(forward(branch, before) for branch in op.branches)
    without_mean(op, before, *(branch.after for branch in branches))
    after = before.scaled(shared_products([coefficient(branch) for branch in branches]))
    for branch in branches:
        after += branch.after
    return Trace(op, before, after, branches)


@forward.register
def sequential(op: Sequential, before: Moments) -> Trace:
    """Return the moments after the ops, one after another.

    Source:
        xiong2020, Table 1.
    """
    return _chain(op, before, op.ops)


@forward.register
def fork(op: Fork, before: Moments) -> Trace:
    """Return two streams that are the same.

    Source:
        definition; poole2016, Sec. 2.
    """
    after = Streams(before.q, before.cov, before.tokens, cross=before, second=before)
    return Trace(op, before, after)


@forward.register
def dual_residual(op: DualResidual, before: Moments) -> Trace:
    """Return the moments of (N(x + F(x)), r + F(x)) and of one with the other.

    Source:
        definition; poole2016, Sec. 2.
    """
    two = streams(op, before)
    branch = forward(op.branch, two.first)
    without_mean(op, branch.after)
    k = coefficient(branch)
    normed = forward(op.norm, two.first.scaled(1 + 2 * k) + branch.after)
    cross = two.first.scaled(k) + two.cross.scaled(1 + k) + branch.after
    second = two.second + two.cross.scaled(2 * k) + branch.after
    after = Streams(
        normed.after.q,
        normed.after.cov,
        before.tokens,
        cross=cross.scaled(coefficient(normed)),
        second=second,
    )
    return Trace(op, before, after, (branch, normed))


@forward.register
def merge(op: Merge, before: Moments) -> Trace:
    """Return the moments of x + N(r).

    Source:
        definition; poole2016, Sec. 2.
    """
    two = streams(op, before)
    normed = forward(op.norm, two.second)
    after = two.first + two.cross.scaled(2 * coefficient(normed)) + normed.after
    return Trace(op, before, after, (normed,))


@forward.register
def repeat(op: Repeat, before: Moments) -> Trace:
    """Return the moments after ``times`` blocks, each time with fresh weights.

    Source:
        xiong2020, Table 1.
    """
    return _chain(op, before, (op.block,) * op.times)


@forward.register
def embedding(op: Embedding, before: Moments) -> Trace:
    """Return the moments of the rows of random tokens, two of which are the same once in ``vocab`` times.

    Source:
        xiong2020, Sec. 3.2.
    """
    return Trace(op, before, lookup(op, sp.Rational(1, op.vocab), before.tokens))


@forward.register
def head(op: Head, before: Moments) -> Trace:
    """Return the moments of the logits.

    Returns:
        The trace.

    Raises:
        MissingRuleError: If there is a softcap, which makes logits other than Gaussian.

    Source:
        xiong2020, Sec. 3.2.
    """
    if op.softcap is not None:
        raise MissingRuleError(op, _NAME, "leave the softcap out, or use the numeric prediction")
    inner = _stations(before, op.transform, op.linear)
    return Trace(op, before, inner[-1].after.scaled(exact(op.scale) ** 2), inner)


@forward.register
def transformer(op: Transformer, before: Moments) -> Trace:
    """Return the moments after embeddings, entry, layers, final norm and head, those of them that exist.

    Source:
        xiong2020, Table 1.
    """
    looked_up = tuple(Trace(t, before, lookup(t, same, before.tokens)) for t, same in tables(op))
    start = before if not looked_up else Moments(sp.Integer(0), sp.Integer(0), before.tokens)
    for table in looked_up:
        start += table.after
    rest = _stations(start, op.entry, *op.layers, op.final_norm, op.head)
    return Trace(op, before, rest[-1].after, (*looked_up, *rest))

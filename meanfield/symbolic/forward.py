"""The forward pass in symbols: second moments of exchangeable tokens through every op."""

from __future__ import annotations

from functools import singledispatch

from meanfield.errors import MissingRuleError
from meanfield.ops import (
    Attention,
    Embedding,
    FeedForward,
    Head,
    Linear,
    Norm,
    Op,
    Repeat,
    Residual,
    Sequential,
    Transformer,
)
from meanfield.symbolic.kernels import relu_dual, require_relu
from meanfield.symbolic.state import Moments, Trace, exact

_NAME = "symbolic.forward"
_UNIFORM = "use attention='uniform' without mask, or the numeric prediction"


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
        >>> import sympy as sp
        >>> from meanfield.presets import paper_post_ln
        >>> one = Moments(sp.Integer(1), sp.Integer(0), sp.Integer(1))
        >>> forward(paper_post_ln(width=8, depth=3), one).after.q
        1
    """
    raise MissingRuleError(op, _NAME)


@forward.register
def linear(op: Linear, before: Moments) -> Trace:
    """Return both moments scaled, plus the bias, which all tokens share.

    Source:
        williams1998 (covariance of an infinitely wide layer).
    """
    scale, shift = exact(op.sigma_w_sq), exact(op.sigma_b_sq)
    after = Moments(scale * before.q + shift, scale * before.cov + shift, before.tokens)
    return Trace(op, before, after)


@forward.register
def norm(op: Norm, before: Moments) -> Trace:
    """Return the moments over the mean square; centring costs O(1/width) and drops out.

    Source:
        ba2016, Eq. (3).
    """
    square = before.q + exact(op.eps)
    return Trace(op, before, Moments(before.q / square, before.cov / square, before.tokens))


@forward.register
def attention(op: Attention, before: Moments) -> Trace:
    """Return, for every token, the mean of all values.

    Returns:
        The trace.

    Raises:
        MissingRuleError: If the attention is not uniform, or is masked or crossed.

    Source:
        xiong2020, Sec. 3.2.
    """
    if op.kind != "uniform" or op.causal or op.cross:
        raise MissingRuleError(op, _NAME, _UNIFORM)
    value = forward(op.value, before)
    n = before.tokens
    mean = (value.after.q + (n - 1) * value.after.cov) / n
    mixed = Moments(mean, mean, n)
    if op.output is None:
        return Trace(op, before, mixed, (value,))
    output = forward(op.output, mixed)
    return Trace(op, before, output.after, (value, output))


@forward.register
def feed_forward(op: FeedForward, before: Moments) -> Trace:
    """Return the moments after up, activation, down.

    Source:
        cho2009, Eq. (6).
    """
    require_relu(op.activation, _NAME)
    up = forward(op.up, before)
    hidden = Moments(*relu_dual(up.after.q, up.after.cov), before.tokens)
    down = forward(op.down, hidden)
    return Trace(op, before, down.after, (up, down))


@forward.register
def residual(op: Residual, before: Moments) -> Trace:
    """Return the sum of the moments of skip and branch: fresh centred output weights leave no cross term.

    Source:
        xiong2020, App. C.
    """
    branch = forward(op.branch, before)
    skip_sq, branch_sq = exact(op.skip_scale) ** 2, exact(op.branch_scale) ** 2
    after = Moments(
        skip_sq * before.q + branch_sq * branch.after.q,
        skip_sq * before.cov + branch_sq * branch.after.cov,
        before.tokens,
    )
    return Trace(op, before, after, (branch,))


def _chain(op: Op | Transformer, parts: list[Op], before: Moments) -> Trace:
    inner: list[Trace] = []
    state = before
    for part in parts:
        inner.append(forward(part, state))
        state = inner[-1].after
    return Trace(op, before, state, tuple(inner))


@forward.register
def sequential(op: Sequential, before: Moments) -> Trace:
    """Return the moments after the ops, one after another.

    Source:
        xiong2020, Table 1.
    """
    return _chain(op, list(op.ops), before)


@forward.register
def repeat(op: Repeat, before: Moments) -> Trace:
    """Return the moments after ``times`` blocks, each time with fresh weights.

    Source:
        xiong2020, Table 1.
    """
    return _chain(op, [op.block] * op.times, before)


@forward.register
def embedding(op: Embedding, before: Moments) -> Trace:
    """Return the moments of distinct tokens: independent rows, whatever came before.

    Source:
        xiong2020, Sec. 3.2.
    """
    scale_sq = exact(op.scale) ** 2
    mean_sq = exact(op.weight.mean) ** 2
    after = Moments(scale_sq * (exact(op.weight.variance) + mean_sq), scale_sq * mean_sq, before.tokens)
    return Trace(op, before, after)


@forward.register
def head(op: Head, before: Moments) -> Trace:
    """Return the moments of the logits.

    Source:
        xiong2020, Sec. 3.2.
    """
    logits = forward(op.linear, before)
    return Trace(op, before, logits.after, (logits,))


@forward.register
def transformer(op: Transformer, before: Moments) -> Trace:
    """Return the moments after embedding, layers, final norm and head, those of them that exist.

    Source:
        xiong2020, Table 1.
    """
    ends = (op.final_norm, op.head)
    parts: list[Op] = [*([op.embedding] if op.embedding else []), *op.layers, *(end for end in ends if end)]
    return _chain(op, parts, before)

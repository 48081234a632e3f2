"""Forward rules: the kernel Q_ij = E<x_i, x_j>/d of an op's output from that of its input.

Assumes throughout: width to infinity, independent weights of mean 0.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from meanfield.errors import InputError, MissingRuleError
from meanfield.gaussian import dual
from meanfield.moments.attention import attention_weights
from meanfield.moments.identity import between_branches, identity_share
from meanfield.moments.state import Exchangeable, Kernel, Layout, Step
from meanfield.ops import (
    Attention,
    Dropout,
    DualResidual,
    FeedForward,
    Fork,
    Gain,
    Linear,
    Merge,
    Norm,
    Op,
    Parallel,
    Residual,
    Scale,
    Sequential,
    walk,
)

INTERPRETER = "moments.forward"


@singledispatch
def forward(op: Op, kernel: Kernel, layout: Layout) -> Step:
    """Return the step of an op: the kernel of its output, with the steps of the ops inside.

    Args:
        op: The op; its type selects the rule.
        kernel: Second moments of all pairs of tokens, per coordinate.
        layout: How they are stored, and how many tokens and sequences there are.

    Raises:
        MissingRuleError: If the theory has no rule for this op.

    Example:
        >>> from fractions import Fraction
        >>> from meanfield.ops import Draw
        >>> op = Linear(8, 8, Draw(Fraction(2, 8)))
        >>> forward(op, np.array([1.0, 0.0, 0.0]), Exchangeable(tokens=4, batch=1)).after.tolist()
        [2.0, 0.0, 0.0]
    """
    raise MissingRuleError(op, INTERPRETER)


@forward.register
def _linear(op: Linear, kernel: Kernel, layout: Layout) -> Step:
    """Q -> sigma_w^2 Q + sigma_b^2: every token gets the same bias. Source: poole2016, Eq. (3)."""
    if op.weight.mean:
        raise MissingRuleError(f"weights of mean {op.weight.mean}", INTERPRETER, "give weights of mean 0")
    bias = 0.0 if op.bias is None else float(op.sigma_b_sq)
    return Step(op, kernel, op.d_in * float(op.weight.variance) * kernel + bias)


@forward.register
def _norm(op: Norm, kernel: Kernel, layout: Layout) -> Step:
    """Q_ij -> Q_ij / (s_i s_j), s_i^2 = Q_ii + eps. Source: xiong2020, App. C."""
    # The mean over coordinates that LayerNorm subtracts is O(1/d).
    first, second = layout.pair(layout.own(kernel) + op.eps)
    return Step(op, kernel, kernel / np.sqrt(first * second))


@forward.register
def _gain(op: Gain, kernel: Kernel, layout: Layout) -> Step:
    """Q -> value^2 Q. Source: touvron2021, Eq. (1)."""
    return Step(op, kernel, float(op.value) ** 2 * kernel)


@forward.register
def _scale(op: Scale, kernel: Kernel, layout: Layout) -> Step:
    """Q -> factor^2 Q. Source: definition."""
    return Step(op, kernel, float(op.factor) ** 2 * kernel)


@forward.register
def _dropout(op: Dropout, kernel: Kernel, layout: Layout) -> Step:
    """Q_ii -> Q_ii / (1 - rate); tokens are dropped independently. Source: srivastava2014, Sec. 10."""
    return Step(op, kernel, layout.raise_own(kernel, 1 / (1 - float(op.rate))))


@forward.register
def _attention(op: Attention, kernel: Kernel, layout: Layout) -> Step:
    """Q -> sigma_o^2 E[A (sigma_v^2 Q) A^T], A the weights. Source: xiong2020, App. C, for uniform A."""
    source, source_layout = kernel, layout
    if op.cross:
        if isinstance(layout, Exchangeable) or layout.memory is None or layout.memory_kernel is None:
            raise MissingRuleError("cross-attention without memory", INTERPRETER, "give an EncoderDecoder")
        source, source_layout = layout.memory_kernel, layout.memory
    value = forward(op.value, source, source_layout)
    inner = {"value": value}
    if op.value_norm is not None:
        value = inner["value_norm"] = forward(op.value_norm, value.after, source_layout)
    if op.query is None or op.key is None:
        weights = attention_weights(op, None, None, layout)
    else:
        query = inner["query"] = forward(op.query, kernel, layout)
        key = inner["key"] = forward(op.key, source, source_layout)
        if op.query_norm is not None:
            inner["query_norm"] = forward(op.query_norm, query.after, layout)
        if op.key_norm is not None:
            inner["key_norm"] = forward(op.key_norm, key.after, source_layout)
        if isinstance(layout, Exchangeable):  # scores at infinite head size see the normed kernels
            query, key = inner.get("query_norm", query), inner.get("key_norm", key)
        weights = attention_weights(op, query.after, key.after, layout)
    after = weights.mix(value.after)
    inner["mixed"] = Step(op, value.after, after)
    if op.inner is not None:
        inner["inner"] = forward(op.inner, after, layout)
        after = inner["inner"].after
    if op.output is not None:
        inner["output"] = forward(op.output, after, layout)
        after = inner["output"].after
    return Step(op, kernel, after, inner, weights)


@forward.register
def _feed_forward(op: FeedForward, kernel: Kernel, layout: Layout) -> Step:
    """Up, then E[phi(u_i) phi(u_j)], then down. Source: cho2009, Eq. (3); shazeer2020 for gates."""
    up = forward(op.up, kernel, layout)
    inner = {"up": up}
    acted = up
    if op.gate is not None:
        acted = inner["gate"] = forward(op.gate, kernel, layout)
    first, second = layout.pair(layout.own(acted.after))
    hidden = dual(op.activation, first, second, acted.after)
    if op.gate is not None:  # the two branches are independent
        hidden = hidden * up.after
    if op.inner is not None:
        # Hidden units share their mean, and LayerNorm takes it out: two independent units give its square.
        # The product with a gate has mean 0.
        mean = np.zeros_like(hidden)
        if op.gate is None and any(isinstance(part, Norm) for part in walk(op.inner)):
            mean = dual(op.activation, first, second, mean)
        inner["inner"] = _centred(op.inner, hidden, mean, layout)[0]
        hidden = inner["inner"].after
    down = inner["down"] = forward(op.down, hidden, layout)
    return Step(op, kernel, down.after, inner)


def _centred(op: Op, kernel: Kernel, mean: Kernel, layout: Layout) -> tuple[Step, Kernel]:
    """Apply an op to a hidden layer whose coordinates share a mean, m_i m_j; return step and new mean."""
    match op:
        case Sequential(ops=parts):
            inner: dict[str, Step] = {}
            after = kernel
            for place, part in enumerate(parts):
                inner[str(place)], mean = _centred(part, after, mean, layout)
                after = inner[str(place)].after
            return Step(op, kernel, after, inner), mean
        case Norm(kind="layernorm"):
            return forward(op, kernel - mean, layout), np.zeros_like(mean)
        case Norm(eps=eps):
            first, second = layout.pair(layout.own(kernel) + eps)
            return forward(op, kernel, layout), mean / np.sqrt(first * second)
        case Gain(value=factor) | Scale(factor=factor):
            return forward(op, kernel, layout), float(factor) ** 2 * mean
        case Dropout():
            return forward(op, kernel, layout), mean
        case _:
            raise MissingRuleError(
                op, "moments.forward inside a feed-forward op", "give norms, gains, dropout"
            )


@forward.register
def _residual(op: Residual, kernel: Kernel, layout: Layout) -> Step:
    """Q -> skip^2 Q + branch^2 Q_branch, and what the two share. Source: xiong2020, App. C."""
    branch = forward(op.branch, kernel, layout)
    skip, scale = float(op.skip_scale), float(op.branch_scale)
    first, second = layout.pair(identity_share(branch, layout))
    shared = skip * scale * (first + second) * kernel
    after = skip**2 * kernel + scale**2 * branch.after + shared
    if not np.isfinite(after).all():
        raise InputError(f"hidden states overflow at {op.name}: lower the depth or the weights' variance")
    return Step(op, kernel, after, {"branch": branch})


@forward.register
def _parallel(op: Parallel, kernel: Kernel, layout: Layout) -> Step:
    """Q -> the sum over branches, and what they share of the input. Source: wang2021gptj."""
    inner = {str(place): forward(branch, kernel, layout) for place, branch in enumerate(op.branches)}
    branches = np.sum([step.after for step in inner.values()], axis=0)
    return Step(op, kernel, branches + between_branches(list(inner.values()), layout) * kernel, inner)


@forward.register
def _sequential(op: Sequential, kernel: Kernel, layout: Layout) -> Step:
    """One op after another. Source: definition."""
    inner: dict[str, Step] = {}
    after = np.asarray(kernel)
    for place, child in enumerate(op.ops):
        step = inner[str(place)] = forward(child, after, layout)
        after = step.after
    return Step(op, kernel, after, inner)


@forward.register
def _fork(op: Fork, kernel: Kernel, layout: Layout) -> Step:
    """The kernels (x x, x r, r r) of two streams that begin alike. Source: xie2023, Eq. (3)."""
    return Step(op, kernel, np.stack([kernel, kernel, kernel]))


@forward.register
def _dual_residual(op: DualResidual, kernel: Kernel, layout: Layout) -> Step:
    """(x, r) -> (N(x + F), r + F): the streams share F. Source: xie2023, Eq. (3)."""
    x, between, r = kernel
    branch = forward(op.branch, x, layout)
    i, j = layout.pair(identity_share(branch, layout))  # F_i = t_i x_i + what is fresh
    norm = forward(op.norm, x + branch.after + (i + j) * x, layout)
    first, _ = layout.pair(np.sqrt(layout.own(norm.before) + op.norm.eps))
    across = (1 + i) * between + j * x + branch.after
    alone = r + branch.after + i * between + j * layout.swap(between)
    after = np.stack([norm.after, across / first, alone])
    return Step(op, kernel, after, {"branch": branch, "norm": norm})


@forward.register
def _merge(op: Merge, kernel: Kernel, layout: Layout) -> Step:
    """X + N(r). Source: xie2023, Eq. (3)."""
    x, between, r = kernel
    norm = forward(op.norm, r, layout)
    _, second = layout.pair(np.sqrt(layout.own(r) + op.norm.eps))
    shared = between / second
    return Step(op, kernel, x + shared + layout.swap(shared) + norm.after, {"norm": norm})

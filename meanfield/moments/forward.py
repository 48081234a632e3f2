"""Forward rules: the kernel Q_ij = E<x_i, x_j>/d of an op's output from that of its input.

Assumes throughout: width to infinity, independent weights of mean 0.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from meanfield.errors import InputError, MissingRuleError
from meanfield.moments.attention import attention_weights
from meanfield.moments.identity import between_branches, identity_share
from meanfield.moments.means import activated, activated_mean, mean_free, products, refuse_mean
from meanfield.moments.state import Exchangeable, Kernel, Layout, Step
from meanfield.ops import (
    Activation,
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
)

INTERPRETER = "moments.forward"


@singledispatch
def forward(op: Op, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Return the step of an op: the kernel of its output, with the steps of the ops inside.

    Args:
        op: The op; its type selects the rule.
        kernel: Second moments of all pairs of tokens, per coordinate.
        layout: How they are stored, and how many tokens and sequences there are.
        mean: Mean over the coordinates of every token, as `Step.mean`.

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
def _linear(op: Linear, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q -> sigma_w^2 Q + sigma_b^2: every token gets the same bias. Source: poole2016, Eq. (3)."""
    if op.weight.mean:
        raise MissingRuleError(f"weights of mean {op.weight.mean}", INTERPRETER, "give weights of mean 0")
    bias = 0.0 if op.bias is None else float(op.sigma_b_sq)
    after = op.d_in * float(op.weight.variance) * kernel + bias
    return Step(op, kernel, after, mean=0.0 if op.bias is None else float(op.bias.mean))


@forward.register
def _norm(op: Norm, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q_ij -> gain^2 Q_ij / (s_i s_j) + shift^2, s_i^2 = Q_ii + eps. Source: xiong2020, App. C."""
    # The mean over coordinates that LayerNorm subtracts is O(1/d) but for what `mean` says.
    if op.kind == "layernorm" and not mean_free(mean):
        kernel, mean = kernel - products(mean, mean, layout), 0.0
    own = layout.own(kernel) + op.eps
    first, second = layout.pair(own)
    after = kernel / np.sqrt(first * second)
    mean = mean if mean_free(mean) else mean / np.sqrt(own)
    if op.plain:
        return Step(op, kernel, after, mean=mean)
    gain, shift = float(op.gain.mean), float(op.shift.mean)
    after = float(op.gain_sq) * after + float(op.shift_sq)  # RMSNorm alone keeps a mean, and has no shift
    return Step(op, kernel, after, mean=gain * mean + shift)


@forward.register
def _activation(op: Activation, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q_ij -> E[phi(u_i) phi(u_j)]. Source: cho2009, Eq. (3)."""
    after = activated(op.activation, kernel, mean, layout)
    return Step(op, kernel, after, mean=activated_mean(op.activation, kernel, mean, layout))


@forward.register
def _gain(op: Gain, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q -> value^2 Q. Source: touvron2021, Eq. (1)."""
    return Step(op, kernel, float(op.value) ** 2 * kernel, mean=float(op.value) * mean)


@forward.register
def _scale(op: Scale, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q -> factor^2 Q. Source: definition."""
    return Step(op, kernel, float(op.factor) ** 2 * kernel, mean=float(op.factor) * mean)


@forward.register
def _dropout(op: Dropout, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q_ii -> Q_ii / (1 - rate); tokens are dropped independently. Source: srivastava2014, Sec. 10."""
    return Step(op, kernel, layout.raise_own(kernel, 1 / (1 - float(op.rate))), mean=mean)


@forward.register
def _attention(op: Attention, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q -> sigma_o^2 E[A (sigma_v^2 Q) A^T], A the weights. Source: xiong2020, App. C, for uniform A."""
    source, source_layout = kernel, layout
    if op.cross:
        if isinstance(layout, Exchangeable) or layout.memory is None or layout.memory_kernel is None:
            raise MissingRuleError("cross-attention without memory", INTERPRETER, "give an EncoderDecoder")
        source, source_layout = layout.memory_kernel, layout.memory
    value = forward(op.value, source, source_layout)
    inner = {"value": value}
    if op.value_norm is not None:
        value = inner["value_norm"] = forward(op.value_norm, value.after, source_layout, value.mean)
    inner |= _scores(op, kernel, layout, source, source_layout)
    query, key = inner.get("query"), inner.get("key")
    if isinstance(layout, Exchangeable):  # scores at infinite head size see the normed kernels
        query, key = inner.get("query_norm", query), inner.get("key_norm", key)
    queries, keys = (None if step is None else step.after for step in (query, key))
    weights = attention_weights(op, queries, keys, layout)
    after, mean = weights.mix(value.after), value.mean  # weights sum to 1
    if not mean_free(mean):
        if np.ptp(mean):
            refuse_mean(op.name, mean, "give the bias of the values entries of mean 0")
        mean = float(np.max(mean))
    inner["mixed"] = Step(op, value.after, after)
    if op.inner is not None:
        inner["inner"] = forward(op.inner, after, layout, mean)
        after, mean = inner["inner"].after, inner["inner"].mean
    if op.output is not None:
        inner["output"] = forward(op.output, after, layout)
        after, mean = inner["output"].after, inner["output"].mean
    return Step(op, kernel, after, inner, weights, mean)


def _scores(
    op: Attention, kernel: Kernel, layout: Layout, source: Kernel, source_layout: Layout
) -> dict[str, Step]:
    """Steps of the queries and keys of softmax attention, with their norms."""
    inner: dict[str, Step] = {}
    for name, linear, norm, read, where in (
        ("query", op.query, op.query_norm, kernel, layout),
        ("key", op.key, op.key_norm, source, source_layout),
    ):
        if linear is None:
            continue
        step = inner[name] = forward(linear, read, where)
        if norm is not None:
            refuse_mean(norm.name, step.mean, "give the bias before it entries of mean 0")
            inner[f"{name}_norm"] = forward(norm, step.after, where)
    return inner


@forward.register
def _feed_forward(op: FeedForward, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Up, then E[phi(u_i) phi(u_j)], then down. Source: cho2009, Eq. (3); shazeer2020 for gates."""
    up = forward(op.up, kernel, layout)
    inner = {"up": up}
    acted = up
    if op.gate is not None:
        acted = inner["gate"] = forward(op.gate, kernel, layout)
    hidden = activated(op.activation, acted.after, acted.mean, layout)
    if op.gate is not None:  # the two branches are independent
        hidden = hidden * up.after
    if op.inner is not None:
        mean = activated_mean(op.activation, acted.after, acted.mean, layout)
        mean = mean if op.gate is None else mean * up.mean
        inner["inner"] = forward(op.inner, hidden, layout, mean)
        hidden = inner["inner"].after
    down = inner["down"] = forward(op.down, hidden, layout)
    return Step(op, kernel, down.after, inner, mean=down.mean)


@forward.register
def _residual(op: Residual, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q -> skip^2 Q + branch^2 Q_branch, and what the two share. Source: xiong2020, App. C."""
    branch = forward(op.branch, kernel, layout, mean)
    skip, scale = float(op.skip_scale), float(op.branch_scale)
    first, second = layout.pair(identity_share(branch, layout))
    shared = (first + second) * kernel
    if not mean_free(mean, branch.mean):
        shared = shared - (first + second) * products(mean, mean, layout)
        shared = shared + products(mean, branch.mean, layout) + products(branch.mean, mean, layout)
    after = skip**2 * kernel + scale**2 * branch.after + skip * scale * shared
    if not np.isfinite(after).all():
        raise InputError(f"hidden states overflow at {op.name}: lower the depth or the weights' variance")
    return Step(op, kernel, after, {"branch": branch}, mean=skip * mean + scale * branch.mean)


@forward.register
def _parallel(op: Parallel, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """Q -> the sum over branches, and what they share of the input. Source: wang2021gptj."""
    inner = {str(place): forward(branch, kernel, layout, mean) for place, branch in enumerate(op.branches)}
    steps = list(inner.values())
    between, total = between_branches(steps, layout), sum(step.mean for step in steps)
    after = np.sum([step.after for step in steps], axis=0) + between * kernel
    if not mean_free(mean, *(step.mean for step in steps)):
        after = after - between * products(mean, mean, layout) + products(total, total, layout)
        after = after - sum(products(step.mean, step.mean, layout) for step in steps)
    return Step(op, kernel, after, inner, mean=total)


@forward.register
def _sequential(op: Sequential, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """One op after another. Source: definition."""
    inner: dict[str, Step] = {}
    after = np.asarray(kernel)
    for place, child in enumerate(op.ops):
        step = inner[str(place)] = forward(child, after, layout, mean)
        after, mean = step.after, step.mean
    return Step(op, kernel, after, inner, mean=mean)


@forward.register
def _fork(op: Fork, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """The kernels (x x, x r, r r) of two streams that begin alike. Source: xie2023, Eq. (3)."""
    refuse_mean("two streams", mean, _TWO)
    return Step(op, kernel, np.stack([kernel, kernel, kernel]))


@forward.register
def _dual_residual(op: DualResidual, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """(x, r) -> (N(x + F), r + F): the streams share F. Source: xie2023, Eq. (3)."""
    x, between, r = kernel
    branch = forward(op.branch, x, layout)
    i, j = layout.pair(identity_share(branch, layout))  # F_i = t_i x_i + what is fresh
    norm = forward(op.norm, x + branch.after + (i + j) * x, layout)
    for step in (branch, norm):
        refuse_mean("two streams", step.mean, _TWO)
    first, _ = layout.pair(identity_share(norm, layout))
    across = (1 + i) * between + j * x + branch.after
    alone = r + branch.after + i * between + j * layout.swap(between)
    after = np.stack([norm.after, across * first, alone])
    return Step(op, kernel, after, {"branch": branch, "norm": norm})


@forward.register
def _merge(op: Merge, kernel: Kernel, layout: Layout, mean: Any = 0.0) -> Step:
    """X + N(r). Source: xie2023, Eq. (3)."""
    x, between, r = kernel
    norm = forward(op.norm, r, layout)
    _, second = layout.pair(identity_share(norm, layout))
    shared = between * second
    return Step(op, kernel, x + shared + layout.swap(shared) + norm.after, {"norm": norm}, mean=norm.mean)


_TWO = "keep biases, gains and shifts of two streams at mean 0, 1 and 0"

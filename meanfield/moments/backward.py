"""Backward rules: G_ij = E<dL/dx_i, dL/dx_j> before an op from that after it, and E||dL/dtheta||^2.

Assumes throughout: width to infinity, independent weights of mean 0 that are used once, exchangeable tokens,
and gradients independent of the forward weights.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from meanfield.errors import MissingRuleError
from meanfield.gaussian import dual, dual_grad
from meanfield.moments.identity import between_branches, identity_share
from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable, Gram, Kernel, Layout, Step
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

INTERPRETER = "moments.backward"


@singledispatch
def backward(op: Op, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """Return the gradient kernel before an op, and record the gradients of its parameters.

    Args:
        op: The op of the step; its type selects the rule.
        step: The op's step of the forward pass.
        gradient: G after the op, summed over coordinates.
        layout: How many tokens and sequences there are.
        record: Collects parameters and points.

    Raises:
        MissingRuleError: If the theory has no rule for this op.
    """
    raise MissingRuleError(op, INTERPRETER)


def _through_linear(
    module: str, step: Step, gradient: Kernel, layout: Layout, record: Record, *, biased: bool = True
) -> Kernel:
    """E||dL/dW||^2 = d_in sum_ij Q_ij G_ij, E||dL/db||^2 = sum_ij G_ij (or 0), G -> sigma_w^2 G."""
    op = step.op
    assert isinstance(op, Linear)
    record.product(module, gradient)
    record.parameter(module, "weight", op.d_in * layout.inner(step.before, gradient))
    if op.bias is not None:
        record.parameter(module, "bias", layout.sum(gradient) if biased else 0.0)
    return op.d_in * float(op.weight.variance) * gradient


@backward.register
def _linear(op: Linear, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G -> sigma_w^2 G. Source: schoenholz2017, Eq. (13)."""
    return _through_linear(op.name, step, gradient, layout, record)


@backward.register
def _norm(op: Norm, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G_ij -> gain^2 G_ij / (s_i s_j), s_i^2 = Q_ii + eps. Source: xiong2020, Lemma 3."""
    # The two projections of the Jacobian are O(1/d). The gain sees sum_ij Q_ij G_ij of what it multiplies.
    record.point(op.name, step.after, gradient)
    first, second = layout.pair(layout.own(step.before) + op.eps)
    size = np.sqrt(first * second)
    if op.affine:
        record.parameter(op.name, "weight", layout.inner(step.before / size, gradient))
    if op.has_shift:
        record.parameter(op.name, "bias", layout.sum(gradient))
    return gradient / size if op.plain else float(op.gain_sq) * gradient / size


@backward.register
def _activation(op: Activation, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G_ij -> G_ij E[phi'(u_i) phi'(u_j)]. Source: schoenholz2017, Eq. (13)."""
    first, second = layout.pair(layout.own(step.before))
    return np.asarray(gradient * dual_grad(op.activation, first, second, step.before))


@backward.register
def _gain(op: Gain, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G -> value^2 G; the gain itself sees sum_ij Q_ij G_ij of its input. Source: touvron2021, Eq. (1)."""
    # One factor or one per coordinate: coordinates are uncorrelated, so the squares add to the same.
    record.point(op.name, step.after, gradient)
    record.parameter(op.name, "weight", layout.inner(step.before, gradient))
    return float(op.value) ** 2 * gradient


@backward.register
def _scale(op: Scale, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G -> factor^2 G. Source: definition."""
    return float(op.factor) ** 2 * gradient


@backward.register
def _dropout(op: Dropout, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G_ii -> G_ii / (1 - rate), by the mask of the forward pass. Source: srivastava2014, Sec. 10."""
    return layout.raise_own(gradient, 1 / (1 - float(op.rate)))


@backward.register
def _attention(op: Attention, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G -> sigma_v^2 E[A^T (sigma_o^2 G) A], plus the way through the scores. Source: xiong2020, App. F."""
    record.point(op.name, step.after, gradient)
    inner, weights = step.inner, step.weights
    if op.output is not None:
        gradient = _through_linear(f"{op.name}.o", inner["output"], gradient, layout, record)
    if op.inner is not None:
        gradient = backward(op.inner, inner["inner"], gradient, layout, record)
    source_layout = layout
    if op.cross:
        assert isinstance(layout, Gram)
        assert layout.memory is not None
        source_layout = layout.memory

    # the softmax does not see what all keys share, where keys have one size and stay as they are
    alike = op.key_norm is None or isinstance(layout, Exchangeable)
    unseen = alike and op.rotary is None and op.softcap is None

    def through(role: str, after: Kernel, where: Layout) -> Kernel:
        """Send a gradient back through the norm and the projection of queries, keys or values."""
        norm, name, biased = inner.get(f"{role}_norm"), f"{op.name}.{role[0]}", not (role == "key" and unseen)
        if norm is not None:
            after = backward(norm.op, norm, after, where, record)
        return _through_linear(name, inner[role], after, where, record, biased=biased)

    value = inner.get("value_norm", inner["value"]).after
    query, key = (
        inner[role].after if f"{role}_norm" not in inner else inner[f"{role}_norm"].after
        for role in (("query", "key") if op.query is not None else ("value", "value"))
    )
    of_value, of_query, of_key = weights.back(query, key, value, gradient)
    of_source = through("value", of_value, source_layout)
    of_token = np.zeros_like(step.before)
    if op.query is not None and op.key is not None:
        of_source = of_source + through("key", of_key, source_layout)
        of_token = through("query", of_query, layout)
        if op.relative_bias is not None:
            name, shared = op.relative_bias.name, op.relative_bias.shared
            record.table(name, weights.bias_gradient(value, gradient), shared=shared)
    if not op.cross:
        return of_token + of_source
    record.memory_gradient = record.memory_gradient + of_source
    return of_token


@backward.register
def _feed_forward(op: FeedForward, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """Down, then times E[phi'(u_i) phi'(u_j)], then up. Source: schoenholz2017, Eq. (13)."""
    record.point(op.name, step.after, gradient)
    inner = step.inner
    gradient = _through_linear(f"{op.name}.down", inner["down"], gradient, layout, record)
    if op.inner is not None:
        gradient = backward(op.inner, inner["inner"], gradient, layout, record)
    acted = inner.get("gate", inner["up"])
    first, second = layout.pair(layout.own(acted.after))
    slope = dual_grad(op.activation, first, second, acted.after)
    if op.gate is None:
        return _through_linear(f"{op.name}.up", inner["up"], gradient * slope, layout, record)
    value = dual(op.activation, first, second, acted.after)
    of_gate = gradient * slope * inner["up"].after
    return _through_linear(f"{op.name}.gate", inner["gate"], of_gate, layout, record) + _through_linear(
        f"{op.name}.up", inner["up"], gradient * value, layout, record
    )


@backward.register
def _residual(op: Residual, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """G -> skip^2 G + branch^2 G_branch, and what the two share. Source: xiong2020, App. F."""
    record.point(op.name, step.after, gradient)
    skip, scale = float(op.skip_scale), float(op.branch_scale)
    branch = step.inner["branch"]
    first, second = layout.pair(identity_share(branch, layout))
    shared = skip * scale * (first + second) * gradient
    return skip**2 * gradient + shared + backward(branch.op, branch, scale**2 * gradient, layout, record)


@backward.register
def _parallel(op: Parallel, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """The sum over branches, and what they share of the gradient. Source: wang2021gptj."""
    shared = between_branches(list(step.inner.values()), layout) * gradient
    branches = [backward(inner.op, inner, gradient, layout, record) for inner in step.inner.values()]
    return np.asarray(np.sum(branches, axis=0) + shared)


@backward.register
def _sequential(op: Sequential, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """The last op first. Source: definition."""
    for inner in reversed(list(step.inner.values())):
        gradient = backward(inner.op, inner, gradient, layout, record)
    return gradient


@backward.register
def _fork(op: Fork, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """Both streams' gradients add up. Source: xie2023, Eq. (3)."""
    x, between, r = gradient
    return np.asarray(x + between + layout.swap(between) + r)


@backward.register
def _dual_residual(op: DualResidual, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """F receives what comes through the norm and what the second stream carries. Source: xie2023, Eq. (3)."""
    x, between, r = gradient
    branch, norm = step.inner["branch"], step.inner["norm"]
    x = backward(norm.op, norm, x, layout, record)
    first, _ = layout.pair(identity_share(norm, layout))
    between = between * first
    record.point(op.name, norm.before, x)
    of_branch = x + between + layout.swap(between) + r
    i, j = layout.pair(identity_share(branch, layout))  # J^T g = t g + what is fresh
    skip = x + j * (x + between) + i * (x + layout.swap(between))
    of_x = skip + backward(branch.op, branch, of_branch, layout, record)
    return np.stack([of_x, between + i * (between + r), r])


@backward.register
def _merge(op: Merge, step: Step, gradient: Kernel, layout: Layout, record: Record) -> Kernel:
    """The gradient of x itself, and of r through the norm. Source: xie2023, Eq. (3)."""
    norm = step.inner["norm"]
    _, second = layout.pair(identity_share(norm, layout))
    return np.stack([gradient, gradient * second, backward(norm.op, norm, gradient, layout, record)])

"""The backward pass in symbols: gradient moments of exchangeable tokens and of every parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    Parallel,
    ParameterKey,
    Repeat,
    Residual,
    Scale,
    Sequential,
    Transformer,
)
from meanfield.symbolic.activations import dual, slope_dual
from meanfield.symbolic.attention import part_names, pull_scores, pull_values, require_exchangeable, weights
from meanfield.symbolic.embedding import table_gradient, tables
from meanfield.symbolic.identity import coefficient, shared_products
from meanfield.symbolic.state import (
    GradMoments,
    GradStreams,
    Pullback,
    Trace,
    centred,
    exact,
    grad_streams,
    normalised,
)

_NAME = "symbolic.backward"
_NOTHING = GradMoments(sp.Integer(0), sp.Integer(0))


@singledispatch
def backward(op: object, trace: Trace, after: GradMoments) -> Pullback:
    """Pull gradient moments back through an op, with ``grad_sq`` of every parameter inside it.

    Args:
        op: The op of the trace.
        trace: What `forward` returned for it.
        after: Gradient moments at its output.

    Raises:
        MissingRuleError: If there is no rule for the op.

    Assumes:
        As `forward`; weights of the backward pass as if independent of those of the forward pass; gradient
        at the output independent of the weights.

    Source:
        schoenholz2017 (mean-field back-propagation); xiong2020, App. E.

    Example:
        >>> from meanfield.presets import paper_post_ln
        >>> from meanfield.symbolic.forward import forward
        >>> from meanfield.symbolic.state import Moments
        >>> one, zero = sp.Integer(1), sp.Integer(0)
        >>> arch = paper_post_ln(width=6, depth=1)
        >>> back = backward(arch, forward(arch, Moments(one, zero, one)), GradMoments(one, zero))
        >>> back.grad_sq[ParameterKey(1, "ffn.down", "weight")]
        2
    """
    raise MissingRuleError(op, _NAME)


def _named(grad_sq: dict[ParameterKey, sp.Expr], module: str) -> dict[ParameterKey, sp.Expr]:
    return {key._replace(module=key.module or module): value for key, value in grad_sq.items()}


def _alone(trace: Trace, after: GradMoments) -> Pullback:
    """Pull back through an op that nothing around it names: a map has its own name then."""
    back = backward(trace.op, trace, after)
    return replace(back, grad_sq=_named(back.grad_sq, trace.op.name if isinstance(trace.op, Linear) else ""))


def _chain(
    inner: tuple[Trace, ...],
    after: GradMoments,
    pull: Callable[[Trace, GradMoments], Pullback] | None = None,
) -> tuple[GradMoments, list[dict[ParameterKey, sp.Expr]]]:
    """Return what comes back through ops in a row; grad_sq of each, first op first."""
    grad_sq: list[dict[ParameterKey, sp.Expr]] = []
    for trace in reversed(inner):
        back = pull(trace, after) if pull else backward(trace.op, trace, after)
        grad_sq.append(back.grad_sq)
        after = back.grad
    return after, grad_sq[::-1]


def _in_layer(grad_sq: dict[ParameterKey, sp.Expr], shift: int) -> dict[ParameterKey, sp.Expr]:
    return {key._replace(layer=key.layer + shift): value for key, value in grad_sq.items()}


def _joined(parts: list[dict[ParameterKey, sp.Expr]]) -> dict[ParameterKey, sp.Expr]:
    return {key: value for part in parts for key, value in part.items()}


@backward.register
def linear(op: Linear, trace: Trace, after: GradMoments) -> Pullback:
    """Return both moments scaled; the weight gets d_in times the pair sum of input and gradient.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    grad_sq = {ParameterKey(0, "", "weight"): op.d_in * trace.before.pair_sum(after)}
    if op.bias is not None:
        grad_sq[ParameterKey(0, "", "bias")] = after.sum_over_tokens(trace.before.tokens)
    return Pullback(after.scaled(exact(op.sigma_w_sq)), grad_sq)


@backward.register
def norm(op: Norm, trace: Trace, after: GradMoments) -> Pullback:
    """Return the moments over the mean square; the projections of the Jacobian cost O(1/width).

    Source:
        xiong2020, App. D, Lemma 3.
    """
    grad_sq: dict[ParameterKey, sp.Expr] = {}
    if op.affine:
        grad_sq[ParameterKey(0, op.name, "weight")] = normalised(op, trace.before).pair_sum(after)
    if op.has_shift:
        grad_sq[ParameterKey(0, op.name, "bias")] = after.sum_over_tokens(trace.before.tokens)
    size = centred(op, trace.before).q + exact(op.eps)
    return Pullback(after.scaled(exact(op.gain_sq) / size), grad_sq)


@backward.register
def activation(op: Activation, trace: Trace, after: GradMoments) -> Pullback:
    """Return the moments times those of the slope.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    q, cov = trace.before.q, trace.before.cov
    own, pair = (slope_dual(op.activation, q, c) for c in (q, cov))
    return Pullback(GradMoments(own * after.q_grad, pair * after.cov_grad), {})


@backward.register
def gain(op: Gain, trace: Trace, after: GradMoments) -> Pullback:
    """Return the moments times the squared factor; the factors get the pair sum, however many there are.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    weight = {ParameterKey(0, op.name, "weight"): trace.before.pair_sum(after)}
    return Pullback(after.scaled(exact(op.value) ** 2), weight)


@backward.register
def scale(op: Scale, trace: Trace, after: GradMoments) -> Pullback:
    """Return the moments times the squared factor.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    return Pullback(after.scaled(exact(op.factor) ** 2), {})


@backward.register
def dropout(op: Dropout, trace: Trace, after: GradMoments) -> Pullback:
    """Return the mean square over 1 - rate; two tokens have independent masks of mean 1.

    Source:
        schoenholz2017 (dropout).
    """
    return Pullback(GradMoments(after.q_grad / (1 - exact(op.rate)), after.cov_grad), {})


@backward.register
def attention(op: Attention, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through values and scores, whose weights are independent of one another.

    Source:
        hron2020 (Gaussian logits); xiong2020, Sec. 3.2 (uniform weights).
    """
    require_exchangeable(op, _NAME)
    inner = dict(zip(part_names(op), trace.inner, strict=True))

    def chain(first: str, second: str) -> tuple[Trace, ...]:
        return tuple(inner[name] for name in (first, second) if name in inner)

    query, key = chain("query", "query_norm"), chain("key", "key_norm")
    value, output = chain("value", "value_norm"), chain("inner", "output")
    read = [part[-1].after if part else trace.before for part in (query, key, value)]
    average = weights(op, read[0], read[1])
    after, found = _chain(output, after)
    grad_sq = _named(_joined(found), f"{op.name}.o")
    ways = [("v", value, pull_values(op, average, trace.before.tokens, after))]
    if op.kind == "softmax":
        to_query, to_key = pull_scores(op, average, (read[0], read[1], read[2]), after)
        ways += [("q", query, to_query), ("k", key, to_key)]
    total = _NOTHING
    for name, way, start in ways:
        grad, found = _chain(way, start)
        grad_sq |= _named(_joined(found), f"{op.name}.{name}")
        total += grad
    return Pullback(total, grad_sq)


@backward.register
def feed_forward(op: FeedForward, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through down, inner op, activation and up, and the gate where there is one.

        plain: H E[phi' phi'];  gated: H E[phi phi] to up and H E[u_i u_j] E[phi' phi'] to the gate

    Source:
        schoenholz2017 (mean-field back-propagation); definition of the gate.
    """
    first = 1 if op.gate is None else 2
    up, acted = trace.inner[first - 1], trace.inner[0]
    after, found = _chain(trace.inner[first:], after)
    grad_sq = _named(_joined(found), f"{op.name}.down")
    q, cov = acted.after.q, acted.after.cov
    slope = [slope_dual(op.activation, q, c) for c in (q, cov)]
    if op.gate is None:
        ways = [("up", up, slope)]
    else:
        other = [slope[0] * up.after.q, slope[1] * up.after.cov]
        ways = [("up", up, [dual(op.activation, q, c) for c in (q, cov)]), ("gate", acted, other)]
    total = _NOTHING
    for name, way, factor in ways:
        back = backward(way.op, way, GradMoments(factor[0] * after.q_grad, factor[1] * after.cov_grad))
        grad_sq |= _named(back.grad_sq, f"{op.name}.{name}")
        total += back.grad
    return Pullback(total, grad_sq)


@backward.register
def residual(op: Residual, trace: Trace, after: GradMoments) -> Pullback:
    """Return the sum of the gradients through skip and branch, correlated by the branch's `coefficient`.

    Source:
        xiong2020, App. E.
    """
    skip, factor = exact(op.skip_scale), exact(op.branch_scale)
    branch = _alone(trace.inner[0], after.scaled(factor**2))
    shared = skip**2 + 2 * skip * factor * coefficient(trace.inner[0])
    return Pullback(after.scaled(shared) + branch.grad, branch.grad_sq)


@backward.register
def parallel(op: Parallel, trace: Trace, after: GradMoments) -> Pullback:
    """Return the sum of the gradients through branches with independent weights.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    total = after.scaled(shared_products([coefficient(branch) for branch in trace.inner]))
    grad_sq: dict[ParameterKey, sp.Expr] = {}
    for branch in trace.inner:
        back = _alone(branch, after)
        grad_sq |= back.grad_sq
        total += back.grad
    return Pullback(total, grad_sq)


@backward.register
def sequential(op: Sequential, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the ops, last one first.

    Source:
        xiong2020, Table 1.
    """
    grad, parts = _chain(trace.inner, after, _alone)
    return Pullback(grad, _joined(parts))


@backward.register
def fork(op: Fork, trace: Trace, after: GradMoments) -> Pullback:
    """Return the moments of the sum of both streams' gradients.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    two = grad_streams(op, after)
    return Pullback(two.first + two.cross.scaled(sp.Integer(2)) + two.second, {})


@backward.register
def dual_residual(op: DualResidual, trace: Trace, after: GradMoments) -> Pullback:
    """Return the moments of the gradients of both streams; F receives g_x/s + g_r.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    two = grad_streams(op, after)
    branch, normed = trace.inner
    into = backward(op.norm, normed, two.first)
    sideways = two.cross.scaled(coefficient(normed))  # of g_x/s with g_r
    found = backward(op.branch, branch, into.grad + sideways.scaled(sp.Integer(2)) + two.second)
    k = coefficient(branch)
    first = into.grad.scaled(1 + 2 * k) + sideways.scaled(2 * k) + found.grad
    cross = sideways.scaled(1 + k) + two.second.scaled(k)
    grad = GradStreams(first.q_grad, first.cov_grad, cross=cross, second=two.second)
    return Pullback(grad, found.grad_sq | into.grad_sq)


@backward.register
def merge(op: Merge, trace: Trace, after: GradMoments) -> Pullback:
    """Return the gradient of the sum to x, and through the norm to r.

    Source:
        schoenholz2017 (mean-field back-propagation).
    """
    (normed,) = trace.inner
    back = backward(op.norm, normed, after)
    cross = after.scaled(coefficient(normed))
    return Pullback(GradStreams(after.q_grad, after.cov_grad, cross=cross, second=back.grad), back.grad_sq)


@backward.register
def repeat(op: Repeat, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the layers and number them from 1.

    Source:
        xiong2020, Table 1.
    """
    grad, layers = _chain(trace.inner, after)
    return Pullback(grad, _joined([_in_layer(part, layer) for layer, part in enumerate(layers, start=1)]))


@backward.register
def embedding(op: Embedding, trace: Trace, after: GradMoments) -> Pullback:
    """Return what the rows of random tokens collect; nothing flows further.

    Source:
        xiong2020, Sec. 3.2.
    """
    collected = table_gradient(op, sp.Rational(1, op.vocab), trace.before.tokens, after)
    return Pullback(_NOTHING, {ParameterKey(0, op.name, "weight"): collected})


@backward.register
def head(op: Head, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the output projection.

    Source:
        xiong2020, Sec. 3.2.
    """
    back = backward(op.linear, trace.inner[-1], after.scaled(exact(op.scale) ** 2))
    grad, found = _chain(trace.inner[:-1], back.grad, _alone)
    return Pullback(grad, _named(back.grad_sq, op.name) | _joined(found))


@backward.register
def transformer(op: Transformer, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the stack; layers count from 1, what follows has depth + 1.

    The gradient of a tied head counts as the embedding's; what the two have in common is O(1/width).

    Source:
        xiong2020, Table 1; definition of the tied head.
    """
    looked_up = tables(op)
    grad, parts = _chain(trace.inner[len(looked_up) :], after, _alone)
    grad_sq: dict[ParameterKey, sp.Expr] = {}
    first = 0
    for inner, part in zip(trace.inner[len(looked_up) :], parts, strict=True):
        run = inner.op.times if isinstance(inner.op, Repeat) else 0
        shift = first if run or inner.op is op.entry else op.depth + 1
        grad_sq |= _in_layer(part, shift)
        first += run
    for table, same in looked_up:
        key = ParameterKey(0, table.name, "weight")
        grad_sq[key] = table_gradient(table, same, trace.before.tokens, grad)
    if op.head is not None and op.head.tied and op.embedding is not None:
        shared = grad_sq.pop(ParameterKey(op.depth + 1, op.head.name, "weight"))
        grad_sq[ParameterKey(0, op.embedding.name, "weight")] += shared
    return Pullback(_NOTHING if looked_up else grad, grad_sq)

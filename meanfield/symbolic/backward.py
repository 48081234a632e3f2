"""The backward pass in symbols: gradient moments of exchangeable tokens and of every parameter."""

from __future__ import annotations

from functools import singledispatch

import sympy as sp

from meanfield.errors import MissingRuleError
from meanfield.ops import (
    Attention,
    Embedding,
    FeedForward,
    Head,
    Linear,
    Norm,
    ParameterKey,
    Repeat,
    Residual,
    Sequential,
    Transformer,
)
from meanfield.symbolic.kernels import relu_slope_dual, require_relu
from meanfield.symbolic.state import GradMoments, Pullback, Trace, exact

_NAME = "symbolic.backward"
_UNIFORM = "use attention='uniform' without mask, or the numeric prediction"


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
    return {key._replace(module=module): value for key, value in grad_sq.items()}


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
    grad_sq = {ParameterKey(0, op.name, "weight"): trace.after.pair_sum(after)}
    if op.has_shift:
        grad_sq[ParameterKey(0, op.name, "bias")] = after.sum_over_tokens(trace.before.tokens)
    return Pullback(after.scaled(1 / (trace.before.q + exact(op.eps))), grad_sq)


@backward.register
def attention(op: Attention, trace: Trace, after: GradMoments) -> Pullback:
    """Return, for every value, the mean of all gradients.

    Returns:
        The pullback.

    Raises:
        MissingRuleError: If the attention is not uniform, or is masked or crossed.

    Source:
        xiong2020, Sec. 3.2.
    """
    if op.kind != "uniform" or op.causal or op.cross:
        raise MissingRuleError(op, _NAME, _UNIFORM)
    grad_sq: dict[ParameterKey, sp.Expr] = {}
    if op.output is not None:
        output = backward(op.output, trace.inner[1], after)
        grad_sq |= _named(output.grad_sq, f"{op.name}.o")
        after = output.grad
    n = trace.before.tokens
    mean = (after.q_grad + (n - 1) * after.cov_grad) / n
    value = backward(op.value, trace.inner[0], GradMoments(mean, mean))
    return Pullback(value.grad, grad_sq | _named(value.grad_sq, f"{op.name}.v"))


@backward.register
def feed_forward(op: FeedForward, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through down, activation, up.

    Source:
        schoenholz2017 (mean-field back-propagation); cho2009, Eq. (5).
    """
    require_relu(op.activation, _NAME)
    up_trace, down_trace = trace.inner
    down = backward(op.down, down_trace, after)
    slope, slope_cov = relu_slope_dual(up_trace.after.q, up_trace.after.cov)
    up = backward(op.up, up_trace, GradMoments(slope * down.grad.q_grad, slope_cov * down.grad.cov_grad))
    return Pullback(up.grad, _named(up.grad_sq, f"{op.name}.up") | _named(down.grad_sq, f"{op.name}.down"))


@backward.register
def residual(op: Residual, trace: Trace, after: GradMoments) -> Pullback:
    """Return the sum of the gradients that come back through skip and branch.

    Source:
        xiong2020, App. E.
    """
    branch = backward(op.branch, trace.inner[0], after.scaled(exact(op.branch_scale) ** 2))
    skip = after.scaled(exact(op.skip_scale) ** 2)
    grad = GradMoments(skip.q_grad + branch.grad.q_grad, skip.cov_grad + branch.grad.cov_grad)
    return Pullback(grad, branch.grad_sq)


def _chain(trace: Trace, after: GradMoments) -> tuple[GradMoments, list[dict[ParameterKey, sp.Expr]]]:
    """Return what comes back through the inner ops; grad_sq of each, first op first."""
    grad_sq: list[dict[ParameterKey, sp.Expr]] = []
    for inner in reversed(trace.inner):
        back = backward(inner.op, inner, after)
        grad_sq.append(back.grad_sq)
        after = back.grad
    return after, grad_sq[::-1]


@backward.register
def sequential(op: Sequential, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the ops, last one first.

    Source:
        xiong2020, Table 1.
    """
    grad, parts = _chain(trace, after)
    return Pullback(grad, {key: value for part in parts for key, value in part.items()})


@backward.register
def repeat(op: Repeat, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the layers and number them from 1.

    Source:
        xiong2020, Table 1.
    """
    grad, layers = _chain(trace, after)
    return Pullback(
        grad,
        {
            key._replace(layer=layer): value
            for layer, part in enumerate(layers, start=1)
            for key, value in part.items()
        },
    )


@backward.register
def embedding(op: Embedding, trace: Trace, after: GradMoments) -> Pullback:
    """Return one row for each distinct token; nothing flows further.

    Source:
        xiong2020, Sec. 3.2.
    """
    rows = trace.before.tokens * exact(op.scale) ** 2 * after.q_grad
    return Pullback(GradMoments(sp.Integer(0), sp.Integer(0)), {ParameterKey(0, op.name, "weight"): rows})


@backward.register
def head(op: Head, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the output projection.

    Source:
        xiong2020, Sec. 3.2.
    """
    back = backward(op.linear, trace.inner[0], after)
    return Pullback(back.grad, _named(back.grad_sq, op.name))


@backward.register
def transformer(op: Transformer, trace: Trace, after: GradMoments) -> Pullback:
    """Return what comes back through the stack; layers count from 1, what follows has depth + 1.

    Source:
        xiong2020, Table 1.
    """
    grad, parts = _chain(trace, after)
    grad_sq: dict[ParameterKey, sp.Expr] = {}
    first = 0
    for inner, part in zip(trace.inner, parts, strict=True):
        shift = first if isinstance(inner.op, Repeat) else op.depth + 1
        if isinstance(inner.op, Embedding):
            shift = 0
        grad_sq |= {key._replace(layer=key.layer + shift): value for key, value in part.items()}
        first += inner.op.times if isinstance(inner.op, Repeat) else 0
    return Pullback(grad, grad_sq)

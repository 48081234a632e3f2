"""Losses in symbols: gradient moments at the output of a stack of n exchangeable tokens, one sequence."""

from __future__ import annotations

import sympy as sp

from meanfield.errors import MissingRuleError
from meanfield.ops import Norm, Number, ParameterKey, Repeat, Sequential, Transformer
from meanfield.symbolic.backward import backward
from meanfield.symbolic.state import GradMoments, Trace, exact

_REMEDY = "use loss='linear', or the numeric prediction"


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


def mse(arch: Transformer, trace: Trace) -> dict[ParameterKey, sp.Expr]:
    """grad_sq of every parameter for (1/(n d)) sum_i ||x_i - t_i||^2, t_i ~ N(0, I).

    The gradient at x_i is 2 (x_i - t_i)/(n d). Its part in t_i is a linear probe. Its part in x_i is parallel
    to the output of the last norm, whose length is fixed: it reaches that norm's gain and shift and nothing
    below.

        gain: 4/(n^2 d) (sum_ij (q^2 + 2 Q_ij^2) + n q),  shift: 4/(n^2 d) (sum_ij Q_ij + n)
        below: linear probe with A = 4/(n^2 d)

    Args:
        arch: An architecture that ends with a norm.
        trace: Its forward pass.

    Returns:
        The expressions.

    Raises:
        MissingRuleError: If no norm comes last: then x_i pulls on the weights that it came from; or if its
            gains are not 1 or its shifts not 0.

    Assumes:
        As `backward`; eps much smaller than the second moment that the last norm divides by.

    Source:
        definition; xiong2020, App. D, Lemma 3 (the Jacobian of the norm).
    """
    last = _last(trace)
    if not isinstance(last.op, Norm):
        raise MissingRuleError("mse without a norm at the end", "symbolic.loss", _REMEDY)
    if not last.op.plain:
        raise MissingRuleError(f"mse behind a gain or shift of {last.op.name}", "symbolic.loss", _REMEDY)
    output, n = trace.after, trace.after.tokens
    factor = 4 / (n**2 * last.op.width)
    grad_sq = dict(backward(arch, trace, GradMoments(factor, sp.Integer(0))).grad_sq)
    layer = arch.depth + (last.op is arch.final_norm)
    q, pairs = output.q, n * (n - 1)
    # Fourth moments of jointly Gaussian coordinates: E[x_ia^2 x_ja^2] = q^2 + 2 Q_ij^2.
    squares = n * 3 * q**2 + pairs * (q**2 + 2 * output.cov**2)
    own = {"weight": squares, "bias": n * q + pairs * output.cov}
    for parameter, value in own.items():
        key = ParameterKey(layer, last.op.name, parameter)
        if key in grad_sq:
            grad_sq[key] += factor * value
    return grad_sq


def _last(trace: Trace) -> Trace:
    """Find the op that acts last."""
    while isinstance(trace.op, Transformer | Repeat | Sequential):
        trace = trace.inner[-1]
    return trace


def class_overlap(classes: int, q: sp.Expr, cov: sp.Expr) -> sp.Expr:
    """E sum_k p_k p'_k of two softmax rows over V independent pairs of Gaussian logits.

    Args:
        classes: Number V of classes.
        q: Variance of a logit.
        cov: Covariance of z_k and z'_k.

    Returns:
        The undefined function ``class_overlap(V, q, q, cov)``, to be evaluated by numbers; 1/V without
        variance.

    Example:
        >>> class_overlap(5, sp.Integer(2), sp.Integer(1))
        class_overlap(5, 2, 2, 1)
    """
    if q == 0:
        return sp.Rational(1, classes)
    return sp.Function("class_overlap", real=True)(sp.Integer(classes), q, q, cov)


def cross_entropy(arch: Transformer, trace: Trace, label_smoothing: Number = 0) -> GradMoments:
    """Gradient of the mean cross entropy at uniform random labels, with respect to the logits.

        A = (E sum_k p_ik^2 - 1/V + (1 - eps)^2 (1 - 1/V))/n^2,  B = (E sum_k p_ik p_jk - 1/V)/n^2

    Args:
        arch: An architecture with a head.
        trace: Its forward pass.
        label_smoothing: Weight eps of the uniform distribution in the target.

    Returns:
        The gradient moments.

    Raises:
        MissingRuleError: If there is no head, or it is tied: logits of a token's own row have a mean then.

    Assumes:
        Labels independent of everything else.

    Source:
        xiong2020, Sec. 3.1 (the loss); expectations derived here.

    Example:
        Equal logits: p - t has one entry 1/2 and one -1/2.

        >>> from meanfield.presets import paper_post_ln
        >>> from dataclasses import replace
        >>> from meanfield.ops import Draw, Head, Linear
        >>> from meanfield.symbolic.forward import forward
        >>> from meanfield.symbolic.state import Moments
        >>> arch = replace(paper_post_ln(width=4, depth=1), head=Head("head", Linear(4, 2, Draw(0))))
        >>> one = sp.Integer(1)
        >>> cross_entropy(arch, forward(arch, Moments(one, one, one))).q_grad
        1/2
    """
    if arch.head is None or arch.head.tied:
        raise MissingRuleError("cross entropy without an untied head", "symbolic.loss", _REMEDY)
    classes, logits = arch.head.linear.d_out, trace.after
    uniform = sp.Rational(1, classes)
    own, pair = (class_overlap(classes, logits.q, cov) for cov in (logits.q, logits.cov))
    targets = (1 - exact(label_smoothing)) ** 2 * (1 - uniform)
    square = logits.tokens**2
    return GradMoments((own - uniform + targets) / square, (pair - uniform) / square)


def pull(arch: Transformer, trace: Trace) -> sp.Expr:
    """What cross entropy adds to the gain of the norm right below an untied head, beside `cross_entropy`.

        every token's gradient g leans on its own hidden state x: d E[g_a x_a] n = E sum_k (p_k - t_k) z_k,
        by Stein's lemma E sum_k p_k z_k = v (1 - E sum_k p_k^2), v = Var z_k without bias; squared, over d,
        times 1 + (1/n^2) sum_ij rho_ij^2, as E x_ia^2 x_ja^2 = q^2 (1 + 2 rho_ij^2)

    Args:
        arch: An architecture with a head and a norm right below it.
        trace: Its forward pass.

    Returns:
        The expression, to be added to grad_sq of the gain.

    Raises:
        MissingRuleError: If there is no untied head, or it has a hidden layer, or gains below it are not 1.

    Source:
        stein1981; derived here.

    Example:
        Without variance of the logits nothing leans.

        >>> from meanfield.presets import paper_post_ln
        >>> from dataclasses import replace
        >>> from meanfield.ops import Draw, Head, Linear
        >>> from meanfield.symbolic.forward import forward
        >>> from meanfield.symbolic.state import Moments
        >>> arch = replace(paper_post_ln(width=4, depth=1), head=Head("head", Linear(4, 2, Draw(0))))
        >>> one = sp.Integer(1)
        >>> pull(arch, forward(arch, Moments(one, one, one)))
        0
    """
    if arch.head is None or arch.head.tied:
        raise MissingRuleError("cross entropy without an untied head", "symbolic.loss", _REMEDY)
    below = _last(trace.inner[-2]).op
    if arch.head.transform is not None or (isinstance(below, Norm) and not below.plain):
        raise MissingRuleError("cross entropy on a gain below such a head", "symbolic.loss", _REMEDY)
    linear = arch.head.linear
    bias = exact(linear.bias.variance) if linear.bias is not None else sp.Integer(0)
    scale = exact(arch.head.scale) ** 2
    variance = trace.after.q - scale * bias
    read, n = trace.inner[-2].after, trace.after.tokens
    together = 1 + (1 + (n - 1) * (read.cov / read.q) ** 2) / n
    lean = variance * (1 - class_overlap(linear.d_out, trace.after.q, trace.after.q))
    return together * lean**2 / linear.d_in

"""Forward rules: the kernel Q_ij = E<x_i, x_j>/d of an op's output from that of its input.

Assumes throughout: width to infinity, independent weights of mean 0, exchangeable tokens.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from meanfield.errors import MissingRuleError
from meanfield.gaussian import dual
from meanfield.moments.attention import mix, softmax_weights
from meanfield.moments.state import Exchangeable, Kernel, Step
from meanfield.ops import Attention, FeedForward, Linear, Norm, Op, Residual, Sequential

INTERPRETER = "moments.forward"


@singledispatch
def forward(op: Op, kernel: Kernel, layout: Exchangeable) -> Step:
    """Return the step of an op: the kernel of its output, with the steps of the ops inside.

    Args:
        op: The op; its type selects the rule.
        kernel: Values (own, within, across) per coordinate.
        layout: How many tokens and sequences there are.

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
def _linear(op: Linear, kernel: Kernel, layout: Exchangeable) -> Step:
    """Q -> sigma_w^2 Q + sigma_b^2: every token gets the same bias. Source: poole2016, Eq. (3)."""
    if op.weight.mean:
        raise MissingRuleError(f"weights of mean {op.weight.mean}", INTERPRETER, "give weights of mean 0")
    return Step(op, kernel, float(op.sigma_w_sq) * kernel + float(op.sigma_b_sq))


@forward.register
def _norm(op: Norm, kernel: Kernel, layout: Exchangeable) -> Step:
    """Q_ij -> Q_ij / (s_i s_j), s_i^2 = Q_ii + eps. Source: xiong2020, App. C."""
    # The mean over coordinates that LayerNorm subtracts is O(1/d).
    return Step(op, kernel, kernel / (layout.own(kernel) + op.eps))


@forward.register
def _attention(op: Attention, kernel: Kernel, layout: Exchangeable) -> Step:
    """Q -> sigma_o^2 E[A (sigma_v^2 Q) A^T], A the weights. Source: xiong2020, App. C, for uniform A."""
    if op.causal or op.cross:
        raise MissingRuleError(
            f"attention with causal={op.causal}, cross={op.cross}",
            INTERPRETER,
            "the theory covers attention within a sequence, without mask; measure this architecture instead",
        )
    value = forward(op.value, kernel, layout)
    inner = {"value": value}
    if op.query is None or op.key is None:
        after = layout.mix(value.after)
    else:
        inner |= {"query": forward(op.query, kernel, layout), "key": forward(op.key, kernel, layout)}
        after = mix(softmax_weights(op, inner["query"], inner["key"], layout), value.after)
    if op.output is not None:
        inner["output"] = forward(op.output, after, layout)
        after = inner["output"].after
    return Step(op, kernel, after, inner)


@forward.register
def _feed_forward(op: FeedForward, kernel: Kernel, layout: Exchangeable) -> Step:
    """Up, then E[phi(u_i) phi(u_j)], then down. Source: cho2009, Eq. (3); xiong2020, App. C."""
    up = forward(op.up, kernel, layout)
    own = layout.own(up.after)
    down = forward(op.down, dual(op.activation, own, own, up.after), layout)
    return Step(op, kernel, down.after, {"up": up, "down": down})


@forward.register
def _residual(op: Residual, kernel: Kernel, layout: Exchangeable) -> Step:
    """Q -> skip^2 Q + branch^2 Q_branch. Source: xiong2020, App. C."""
    # The branch ends in fresh weights, so cross terms vanish.
    branch = forward(op.branch, kernel, layout)
    skip, scale = float(op.skip_scale), float(op.branch_scale)
    return Step(op, kernel, skip**2 * kernel + scale**2 * branch.after, {"branch": branch})


@forward.register
def _sequential(op: Sequential, kernel: Kernel, layout: Exchangeable) -> Step:
    """One op after another. Source: definition."""
    inner: dict[str, Step] = {}
    after = np.asarray(kernel)
    for place, child in enumerate(op.ops):
        step = inner[str(place)] = forward(child, after, layout)
        after = step.after
    return Step(op, kernel, after, inner)

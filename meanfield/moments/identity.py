"""How much of an op's input stands in its output: what correlates a branch with its skip.

A branch that ends in fresh weights shares nothing with its input. One that holds a norm or a residual sum of
its own does: f(x)_j = t_j x_j + what is independent of x, so E<x_i, f(x)_j> = t_j Q_ij, and for gradients
E<g_i, (J^T g)_j> = t_j G_ij.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meanfield.errors import MissingRuleError
from meanfield.gaussian import dual_grad
from meanfield.moments.state import Layout, Step
from meanfield.ops import (
    Activation,
    Attention,
    Dropout,
    FeedForward,
    Gain,
    Linear,
    Norm,
    Parallel,
    Residual,
    Scale,
    Sequential,
)


def identity_share(step: Step, layout: Layout) -> Any:
    """Compute t: one number per token, or one for all.

        linear, attention, feed-forward: 0;  norm: gain/s;  factor: itself;  residual: skip + branch t_branch
        activation: E phi'(u), by Stein's lemma;  a sequence: the product;  parallel branches: the sum

    Args:
        step: A step of the forward pass.
        layout: Its layout.

    Returns:
        The coefficients.

    Raises:
        MissingRuleError: If the op splits or joins two streams.

    Source:
        definition; takase2023 (B2T, the placement that needs it).

    Example:
        >>> from fractions import Fraction
        >>> from meanfield.moments.forward import forward
        >>> from meanfield.moments.state import Exchangeable
        >>> layout = Exchangeable(tokens=1, batch=1)
        >>> step = forward(Norm("norm1", 8, eps=0.0), np.array([4.0, 0.0, 0.0]), layout)
        >>> float(identity_share(step, layout))
        0.5
    """
    match step.op:
        case Norm(eps=eps, gain=gain):
            return float(gain.mean) / np.sqrt(layout.own(step.before) + eps)
        case Linear() | Attention() | FeedForward():
            return 0.0
        case Activation(activation=name):  # two coordinates are independent: they give the square
            own = layout.own(step.before)
            return np.sqrt(np.maximum(dual_grad(name, own, own, np.zeros_like(own)), 0.0))
        case Dropout():
            return 1.0
        case Gain(value=factor) | Scale(factor=factor):
            return float(factor)
        case Residual(skip_scale=skip, branch_scale=scale):
            return float(skip) + float(scale) * identity_share(step.inner["branch"], layout)
        case Parallel():
            return sum(identity_share(inner, layout) for inner in step.inner.values())
        case Sequential():
            share: Any = 1.0
            for inner in step.inner.values():
                share = share * identity_share(inner, layout)
            return share
        case _:
            raise MissingRuleError(
                step.op, "moments.identity", "keep two streams outside of residual sums and tied heads"
            )


def between_branches(steps: list[Step], layout: Layout) -> Any:
    """Compute what parallel branches share of their input, as a factor on its kernel.

        sum over pairs of branches a != b of t_a,i t_b,j

    Args:
        steps: Steps of the branches.
        layout: Their layout.

    Returns:
        The factor for every pair of tokens; 0 where all but one branch end in fresh weights.

    Source:
        definition.
    """
    shares = [layout.pair(identity_share(step, layout)) for step in steps]
    whole = sum(i for i, _ in shares) * sum(j for _, j in shares)
    return whole - sum(i * j for i, j in shares)

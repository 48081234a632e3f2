"""What the first step does to a weight, a bias and a gain: formulas.

A weight's gradient is sum_i x_i^T d_i over tokens. In the limit of width its entries are sum_i x_ip d_iq, x_p
and d_q independent vectors over tokens: Gaussian with kernels Q and G, but for what an activation makes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.first_update.algebra import (
    average,
    effective_rank,
    leaning,
    multiply,
    root_share,
    times,
)
from meanfield.first_update.hidden import Hidden
from meanfield.moments.state import Kernel, Layout, Step
from meanfield.ops import Linear

GAUSSIAN = math.sqrt(2 / math.pi)
"""E|g| / sqrt(E g^2) of a Gaussian."""


class Change(NamedTuple):
    """E<Dy_i, Dy_j> per coordinate, what one tensor's step at rate 1 does to the output of its own op.

    Attributes:
        adam: For steps by signs.
        sgd: For steps along the gradient.
        before: Kernel of that output, per coordinate.
    """

    adam: Kernel
    sgd: Kernel
    before: Kernel


class Move(NamedTuple):
    """The first step of one parameter tensor.

    Attributes:
        share: E|g| / sqrt(E g^2) over all entries, those without a gradient included.
        moved: Share of the entries that have a gradient.
        change: What it does to the output of its op; None where there is no rule.
    """

    share: float
    moved: float
    change: Change | None = None


NOTHING = Move(0.0, 0.0)
"""Of a tensor without a gradient."""


def weight_move(op: Linear, kernel: Kernel, gradient: Kernel, after: Kernel, layout: Layout) -> Move:
    """Compute the first step of a weight between Gaussian inputs and Gaussian gradients.

        E|g| / sqrt(E g^2) = sqrt(2/pi) E sqrt(S) / sqrt(E S),  S = d^T Q d: 2/pi for tokens that are alike

    Args:
        op: The map.
        kernel: Q of its input.
        gradient: G behind it.
        after: Kernel of its output.
        layout: Layout of the tokens.

    Returns:
        The move.
    """
    if layout.inner(kernel, gradient) <= 0:
        return NOTHING
    share = GAUSSIAN * root_share(effective_rank(layout, kernel, gradient))
    along = GAUSSIAN**2 * leaning(layout, kernel, gradient)
    return Move(share, 1.0, _weight_change(op, kernel, along, kernel, gradient, after, layout))


def _weight_change(
    op: Linear, kernel: Kernel, along: Kernel, met: Kernel, gradient: Kernel, after: Kernel, layout: Layout
) -> Change:
    """Sum over inputs: along = E mu mu^T, mu_j = E[x_j sign g] given d; met = E x x^T where g is not 0."""
    adam = op.d_in**2 * along + op.d_in * (met - along)
    both = multiply(layout, kernel, gradient, kernel)
    noise = op.d_in * (kernel * layout.inner(kernel, gradient) + both)
    return Change(adam, (op.d_in**2 * both + noise) / op.d_out, after)


def after_activation(op: Linear, hidden: Hidden, gradient: Kernel, step: Step, layout: Layout) -> Move:
    """Compute the first step of the map behind an activation, on draws of its inputs.

        given x entries are Gaussian: for two inputs E sign g sign g' = 2/pi asin(corr(g, g'))

    Args:
        op: The map.
        hidden: Draws of the hidden layer.
        gradient: G behind the map.
        step: Its step.
        layout: Layout of the tokens.

    Returns:
        The move; a unit that is 0 for all tokens does not move.
    """
    x = hidden.value
    s = np.einsum("dt,dt->d", times(layout, x, gradient), x)
    s = np.maximum(s, 0.0)
    unit = np.divide(x, np.sqrt(s)[:, None], out=np.zeros_like(x), where=s[:, None] > 0)
    alike = 2 / np.pi * np.arcsin(np.clip(times(layout, unit, gradient) @ unit.T, -1, 1))
    np.fill_diagonal(alike, 0.0)
    along = average(layout, x, alike @ x) / (len(x) - 1)
    share = GAUSSIAN * float(np.sqrt(s).mean() / np.sqrt(s.mean()))
    change = _weight_change(op, step.before, along, step.before, gradient, step.after, layout)
    return Move(share, float((s > 0).mean()), change)


def before_activation(
    op: Linear, hidden: Hidden, role: str, gradient: Kernel, step: Step, layout: Layout
) -> tuple[Move, Move]:
    """Compute the first step of a map before an activation, and of its bias, on draws of their gradients.

        given d inputs are Gaussian: E[x_j sign g] = sqrt(2/pi) (Q d)_j / sqrt(d^T Q d)

    Args:
        op: The map.
        hidden: Draws of the hidden layer.
        role: ``"up"`` or ``"gate"``.
        gradient: G behind the map.
        step: Its step.
        layout: Layout of the tokens.

    Returns:
        The moves of weight and bias; a unit whose slope is 0 for all tokens does not move.
    """
    d = hidden.gradients(role, layout)
    pulled = times(layout, d, step.before)
    s = np.maximum(np.einsum("dt,dt->d", pulled, d), 0.0)
    unit = np.divide(pulled, np.sqrt(s)[:, None], out=np.zeros_like(pulled), where=s[:, None] > 0)
    moved = float((s > 0).mean())
    along = GAUSSIAN**2 * average(layout, unit, unit)
    change = _weight_change(op, step.before, along, moved * step.before, gradient, step.after, layout)
    weight = Move(GAUSSIAN * float(np.sqrt(s).mean() / np.sqrt(s.mean())), moved, change)
    slopes = hidden.slopes[role]
    of_bias = np.maximum(np.einsum("dt,dt->d", times(layout, slopes, hidden.gradient), slopes), 0.0)
    share = GAUSSIAN * float(np.sqrt(of_bias).mean() / np.sqrt(of_bias.mean()))
    one = np.ones_like(step.after)
    shift = Change(moved * one, layout.sum(gradient) / op.d_out * one, step.after)
    return weight, Move(share, moved, shift)


def bias_move(gradient: Kernel, width: int, after: Kernel, layout: Layout) -> Move:
    """Compute the first step of a bias or shift: every token gets the same.

    Args:
        gradient: G behind it.
        width: Its entries.
        after: Kernel of the output.
        layout: Layout of the tokens.

    Returns:
        The move.
    """
    one = np.ones_like(after)
    return Move(GAUSSIAN, 1.0, Change(one, layout.sum(gradient) / width * one, after))


def gain_move(kernel: Kernel, gradient: Kernel, width: int, after: Kernel, layout: Layout) -> Move:
    """Compute the first step of gains: entries sum_i x_iq d_iq.

    Args:
        kernel: Q of what they multiply.
        gradient: G behind them.
        width: Their number; a single one sums over all coordinates, and is Gaussian.
        after: Kernel of the output.
        layout: Layout of the tokens.

    Returns:
        The move.
    """
    inner = layout.inner(kernel, gradient)
    if inner <= 0:
        return NOTHING
    share = GAUSSIAN * (root_share(effective_rank(layout, kernel, gradient)) if width > 1 else 1.0)
    return Move(share, 1.0, Change(kernel, inner / width * kernel, after))

"""The last norm: what a loss does to its gain and shift beside the rule of every norm.

The rule takes the gradient of the final hidden states for independent of them. A loss whose gradient has a
part along the hidden state pulls on the gain of the last norm in the same way for all tokens.
"""

from __future__ import annotations

import numpy as np

from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable, Kernel, Layout
from meanfield.ops import Norm, Op, ParameterKey, Sequential, Transformer


def real_pairs(layout: Layout) -> tuple[Kernel, int]:
    """Return which pairs of tokens are both real, as a kernel-shaped array, and T."""
    if isinstance(layout, Exchangeable):
        return np.ones(3), layout.total
    real = layout.real
    return np.outer(real, real).astype(np.float64), int(real.sum())


def last_norm(arch: Transformer) -> tuple[int, Norm] | None:
    """Find the norm that gives the final hidden states, and its layer.

    Args:
        arch: The architecture.

    Returns:
        Layer and norm, or None where the stack ends otherwise.

    Example:
        >>> from meanfield import post_ln
        >>> layer, norm = last_norm(post_ln(width=8, depth=3))
        >>> layer, norm.name
        (3, 'norm2')
    """
    if isinstance(arch.final_norm, Norm):
        return arch.depth + 1, arch.final_norm
    last: Op | None = arch.final_norm or arch.layers[-1].block
    while isinstance(last, Sequential) and last.ops:
        last = last.ops[-1]
    return (arch.depth, last) if isinstance(last, Norm) else None


def pend_mean_square(arch: Transformer, kernel: Kernel, layout: Layout, record: Record) -> None:
    """Add what the mean square error does to the last norm alone.

        gain: 4/(T^2 d) sum_ij (Q_ii Q_jj + 2 Q_ij^2),  shift: 4/(T^2 d) sum_ij Q_ij

    The gradient 2 (y_i - t_i)/(T d) has a part along y_i. The norm's Jacobian takes it out: it stops there.

    Args:
        arch: The architecture, a norm at its end.
        kernel: Kernel of the final hidden states, per coordinate.
        layout: How many tokens and sequences there are.
        record: Collects parameters.

    Assumes:
        Gaussian coordinates, E y_ia^2 y_ja^2 = Q_ii Q_jj + 2 Q_ij^2; eps much smaller than what the norm
        divides by.

    Source:
        definition; xiong2020, Lemma 3 (the Jacobian of the norm).
    """
    pairs, total = real_pairs(layout)
    first, second = layout.pair(layout.own(kernel))
    factor = 4 / (total**2 * arch.width)
    _pend(arch, record, "weight", factor * layout.sum(pairs * (first * second + 2 * kernel**2)))
    _pend(arch, record, "bias", factor * layout.sum(pairs * kernel))


def pend_pull(arch: Transformer, pull: Kernel, layout: Layout, record: Record) -> None:
    """Add what a common pull along the hidden states does to the gain of the last norm.

        E g_ia y_ia = pull_i / (T d) for every coordinate a, so the gain gets (mean pull)^2 / d

    Args:
        arch: The architecture.
        pull: E <g_i, y_i> times T, one number per token or one for all.
        layout: How many tokens and sequences there are.
        record: Collects parameters.

    Source:
        definition.
    """
    if isinstance(layout, Exchangeable):
        mean = float(pull)
    else:
        mean = float(np.broadcast_to(pull, (layout.total,))[layout.real].mean())
    _pend(arch, record, "weight", mean**2 / arch.width)


def _pend(arch: Transformer, record: Record, parameter: str, grad_sq: float) -> None:
    found = last_norm(arch)
    if found is None:
        return
    layer, norm = found
    if norm.has_shift if parameter == "bias" else norm.affine:
        record.pend(ParameterKey(layer, record.prefix + norm.name, parameter), grad_sq)

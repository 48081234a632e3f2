"""The last norm: what a loss does to its gain and shift beside the rule of every norm.

The rule takes the gradient of the final hidden states for independent of them. A loss whose gradient has a
part along the hidden state pulls on the gain of the last norm in the same way for all tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meanfield.errors import MissingRuleError
from meanfield.moments.means import products
from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable, Kernel, Layout
from meanfield.ops import ZEROS, Norm, Op, ParameterKey, Sequential, Transformer


def real_pairs(layout: Layout) -> tuple[Kernel, int]:
    """Return which pairs of tokens are both real, as a kernel-shaped array, and T."""
    if isinstance(layout, Exchangeable):
        return np.ones(3), layout.total
    real = layout.real
    return np.outer(real, real).astype(np.float64), int(real.sum())


def last_norm(arch: Transformer, *, with_head: bool = False) -> tuple[int, Norm] | None:
    """Find the norm that gives the final hidden states, and its layer.

    Args:
        arch: The architecture.
        with_head: Whether what the head's map reads is meant, behind the head's hidden layer.

    Returns:
        Layer and norm, or None where the stack (or the hidden layer) ends otherwise.

    Example:
        >>> from meanfield import post_ln
        >>> layer, norm = last_norm(post_ln(width=8, depth=3))
        >>> layer, norm.name
        (3, 'norm2')
    """
    transform = arch.head.transform if with_head and arch.head is not None else None
    last: Op = transform or arch.final_norm or arch.layers[-1].block
    layer = arch.depth + (transform is not None or arch.final_norm is not None)
    while isinstance(last, Sequential) and last.ops:
        last = last.ops[-1]
    return (layer, last) if isinstance(last, Norm) else None


def pend_mean_square(arch: Transformer, kernel: Kernel, mean: Any, layout: Layout, record: Record) -> None:
    """Add what the mean square error does to the last norm alone.

        gain, all c: 4/(T^2 d) sum_ij (Q_ii Q_jj + 2 Q_ij^2)/c^2,  shift: 4/(T^2 d) sum_ij Q_ij

    The gradient 2 (y_i - t_i)/(T d) has a part along y_i. The norm's Jacobian takes it out: it stops there.

    Args:
        arch: The architecture, a norm at its end.
        kernel: Kernel of the final hidden states, per coordinate.
        mean: Their mean over coordinates, as `Step.mean`.
        layout: How many tokens and sequences there are.
        record: Collects parameters.

    Raises:
        MissingRuleError: If there is no norm at the end, or one whose output is not along its input.

    Assumes:
        Gaussian coordinates, E y_ia^2 y_ja^2 = Q_ii Q_jj + 2 Q_ij^2; eps much smaller than what the norm
        divides by.

    Source:
        definition; xiong2020, Lemma 3 (the Jacobian of the norm).
    """
    found = last_norm(arch)
    if found is None:
        raise MissingRuleError(
            "mse without a norm at the end", "moments.loss", "use loss='linear', or end with a norm"
        )
    _, norm = found
    if norm.gain.variance or norm.shift != ZEROS or np.any(mean):
        raise MissingRuleError(
            f"mse behind {norm.name}, whose gains differ or whose shifts are not 0",
            "moments.loss",
            "use loss='linear'",
        )
    pairs, total = real_pairs(layout)
    factor = 4 / (total**2 * arch.width)
    squares = layout.sum(pairs * _squares(kernel, layout))
    if norm.gain.mean:
        _pend(found, record, "weight", factor * squares / float(norm.gain_sq))
    _pend(found, record, "bias", factor * layout.sum(pairs * kernel))


def pend_pull(arch: Transformer, pull: Kernel, kernel: Kernel, layout: Layout, record: Record) -> None:
    """Add what a common pull along what the head's map reads does to the gain of the norm below.

        g_i leans by a_i y_i on y_i = gain x_i + shift, a_i = pull_i / (T d Q_ii), so that the gains get
        d E gain^2 sum_ij a_i a_j (X_ii X_jj + X_ij^2) more, X the kernel of x

    Args:
        arch: The architecture.
        pull: E <g_i, y_i> times T, one number per token or one for all.
        kernel: Q, the kernel of y.
        layout: How many tokens and sequences there are.
        record: Collects parameters.

    Assumes:
        Gaussian coordinates, E x_ia^2 x_ja^2 = X_ii X_jj + 2 X_ij^2, of which the rule of every norm has one
        X_ij^2.

    Source:
        definition.
    """
    found = last_norm(arch, with_head=True)
    if found is None:
        return
    _, norm = found
    gain_sq, own = float(norm.gain_sq), layout.own(kernel)
    normed = kernel if norm.plain else (kernel - float(norm.shift_sq)) / (gain_sq or 1.0)
    lean = np.divide(pull, own, out=np.zeros_like(own), where=own > 0)
    pairs, total = real_pairs(layout)
    squares = pairs * products(lean, lean, layout) * (_squares(normed, layout) - normed**2)
    _pend(found, record, "weight", gain_sq * layout.sum(squares) / (total**2 * norm.width))


def _squares(kernel: Kernel, layout: Layout) -> Kernel:
    """Mean squares of a coordinate of both tokens of each pair, E x_ia^2 x_ja^2."""
    own = layout.own(kernel)
    return np.asarray(products(own, own, layout) + 2 * kernel**2)


def _pend(found: tuple[int, Norm], record: Record, parameter: str, grad_sq: float) -> None:
    layer, norm = found
    if norm.has_shift if parameter == "bias" else norm.affine:
        record.pend(ParameterKey(layer, record.prefix + norm.name, parameter), grad_sq)

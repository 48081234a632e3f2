"""What a loss does at the top of the stack: the gradient kernel of the final hidden states, and the head's.

Both losses are means over the T tokens.
"""

from __future__ import annotations

import math

import numpy as np

from meanfield.errors import InputError, MissingRuleError, UnknownNameError
from meanfield.moments.backward import Record
from meanfield.moments.state import Exchangeable, Kernel
from meanfield.ops import Transformer

LOSSES = ("cross_entropy", "linear")

# E[p_ik p_jk] = exp(cov)/V^2 holds for V much larger than exp(variance of a logit): this many times larger.
_VOCABULARY_MARGIN = 100


def _linear(layout: Exchangeable) -> Kernel:
    """L = (1/T) sum_i <r_i, y_i>, r_i ~ N(0, I/d): G_ii = 1/T^2, else 0. Source: definition."""
    return np.array([1.0 / layout.total**2, 0.0, 0.0])


def _softmax_overlaps(logits: Kernel, vocab: int, label_smoothing: float) -> Kernel:
    """Compute E sum_k (p_ik - t_ik)(p_jk - t_jk) for Gaussian logits and uniform labels."""
    # For a large vocabulary each softmax denominator is V exp(own/2), so E sum_k p_ik p_jk = exp(cov)/V;
    # E sum_k p_ik t_jk = 1/V; E sum_k t_ik t_jk = 1/V for i != j, and (1-s)^2 + (2-s) s/V for i = j.
    s = label_smoothing
    targets = np.array([(1 - s) ** 2 + (2 - s) * s / vocab, 1 / vocab, 1 / vocab])
    return np.asarray(np.exp(logits) / vocab - 2 / vocab + targets)


def loss_gradient(
    arch: Transformer, kernel: Kernel, layout: Exchangeable, loss: str, label_smoothing: float, record: Record
) -> Kernel:
    """Compute the gradient kernel at the final hidden states and record the head's weight gradient.

        cross entropy: G_ij = (s^2 d / T^2) E sum_k (p_ik - t_ik)(p_jk - t_jk), s^2 a head weight's variance

    Args:
        arch: The architecture; cross entropy needs its head.
        kernel: Kernel of the final hidden states, per coordinate.
        layout: How many tokens and sequences there are.
        loss: ``"linear"`` or ``"cross_entropy"`` with uniform random labels.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        record: Collects the head's gradient.

    Returns:
        G at the final hidden states, summed over coordinates.

    Raises:
        InputError: If there is no head, or the label smoothing is outside [0, 1).
        MissingRuleError: If the vocabulary is too small for the large-vocabulary rule.
        UnknownNameError: If the loss has another name.

    Assumes:
        Width to infinity; an untied head; labels independent of everything else; relative error
        O(exp(3 v)/V) for logits of variance v.

    Source:
        xiong2020, Sec. 3.1 (the loss).
    """
    if loss == "linear":
        return _linear(layout)
    if loss != "cross_entropy":
        raise UnknownNameError("loss", loss, LOSSES)
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing={label_smoothing} is outside [0, 1): give a share such as 0.1")
    if arch.head is None:
        raise InputError(
            "loss='cross_entropy' needs an output head: give the preset vocab=, or use loss='linear'"
        )
    head = arch.head.linear
    logits = float(head.sigma_w_sq) * kernel
    smallest = math.ceil(_VOCABULARY_MARGIN * math.exp(float(logits[0])))
    if head.d_out < smallest:
        raise MissingRuleError(
            f"cross entropy over {head.d_out} classes with logits of variance {float(logits[0]):.3g}",
            "moments.loss",
            f"the rule needs a vocabulary of {smallest} or more",
        )
    overlaps = _softmax_overlaps(logits, head.d_out, label_smoothing) / layout.total**2
    record.parameter("head", "weight", head.d_in * layout.inner(kernel, overlaps))
    return float(head.sigma_w_sq) * overlaps

"""What a loss does at the top of the stack: the gradient kernel of the final hidden states, and the head's.

All losses are means over the T real tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.errors import InputError, MissingRuleError, UnknownNameError
from meanfield.gaussian.vocabulary import class_overlap
from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable, Kernel, Layout
from meanfield.moments.top import pend_mean_square, pend_pull, real_pairs
from meanfield.ops import Head, Transformer

LOSSES = ("cross_entropy", "linear", "mse")


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name.

        linear: (1/T) sum_i <r_i, y_i>, r_i ~ N(0, I/d)
        mse: (1/(T d)) sum_i ||y_i - t_i||^2, t_i ~ N(0, I)
        cross_entropy: the mean over T positions with random labels

    Args:
        name: ``"linear"``, ``"mse"`` or ``"cross_entropy"``.
        label_smoothing: For cross entropy, in [0, 1).
        label_collision: For cross entropy: the probability that two labels are equal, sum over classes of
            their squared frequencies; None for uniform labels, 1/V.

    Raises:
        UnknownNameError: If the loss has another name.
        InputError: If a number is outside its range, or means nothing for this loss.
    """

    name: str = "linear"
    label_smoothing: float = 0.0
    label_collision: float | None = None

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise UnknownNameError("loss", self.name, LOSSES)
        s = self.label_smoothing
        if not 0 <= s < 1:
            raise InputError(f"label_smoothing={s} is outside [0, 1): give a share such as 0.1")
        if s and self.name != "cross_entropy":
            raise InputError(
                f"label_smoothing={s} means nothing for loss={self.name!r}: give 0, or 'cross_entropy'"
            )
        c = self.label_collision
        if c is not None and (self.name != "cross_entropy" or not 0 < c <= 1):
            raise InputError(
                f"label_collision={c} for loss={self.name!r}: give the sum of squared label frequencies, in "
                "(0, 1], with 'cross_entropy'"
            )


CAPPED = 0.01
"""Largest E z^2 / c^2 of logits z at which a cap c counts as none: it changes slopes by that much."""


def check_cap(head: Head, square: Any) -> None:
    """Check that a cap leaves the logits of a head Gaussian, c tanh(z/c) = z (1 - O(z^2/c^2)).

    Args:
        head: The head.
        square: Second moments of its logits before the cap.

    Raises:
        MissingRuleError: If they are so large that the cap is felt.
    """
    if head.softcap is not None and float(np.max(square)) > CAPPED * float(head.softcap) ** 2:
        raise MissingRuleError(
            f"logits of size {float(np.max(square)) ** 0.5:.3g} capped at {head.softcap}",
            "moments.loss",
            "use loss='linear', or leave out the cap",
        )


def logit_variance(arch: Transformer) -> float:
    """Compute the variance of a logit of unit hidden states, before its scale: d times that of W's entries.

    Args:
        arch: An architecture with a head; a tied one has the embedding's law.

    Returns:
        sigma_w^2.

    Raises:
        MissingRuleError: If the entries have a mean.
    """
    assert arch.head is not None
    table = arch.embedding if arch.head.tied else None
    law = arch.head.linear.weight if table is None else table.weight
    if law.mean:
        raise MissingRuleError(f"weights of mean {law.mean}", "moments.loss", "give weights of mean 0")
    return arch.head.linear.d_in * float(law.variance)


def identity(layout: Layout) -> Kernel:
    """Return the kernel of tokens that share nothing: 1 for a token with itself, else 0."""
    return np.array([1.0, 0.0, 0.0]) if isinstance(layout, Exchangeable) else np.eye(layout.total)


def target_overlap(vocab: int, loss: Loss, layout: Layout) -> Kernel:
    """Compute E sum_k (t_ik t_jk - p_ik t_jk - t_ik p_jk) for random labels.

        (1-s)^2 c + (2-s) s/V - 2/V for i != j;  (1-s)^2 + (2-s) s/V - 2/V for i = j
        s the label smoothing, c the probability that two labels are equal, 1/V if they are uniform

    Args:
        vocab: V.
        loss: Cross entropy.
        layout: Layout of the tokens.

    Returns:
        A kernel-shaped array.

    Raises:
        InputError: If labels collide more rarely than uniform ones.

    Source:
        definition; szegedy2016 for label smoothing.
    """
    s = loss.label_smoothing
    equal = 1 / vocab if loss.label_collision is None else loss.label_collision
    if equal < 1 / vocab:
        raise InputError(
            f"label_collision={equal} of {vocab} classes: give at least 1/{vocab}, uniform labels"
        )
    shared = (1 - s) ** 2 * equal + (2 - s) * s / vocab - 2 / vocab
    return shared + (1 - s) ** 2 * (1 - equal) * identity(layout)


def loss_gradient(
    arch: Transformer, kernel: Kernel, layout: Layout, loss: Loss, record: Record, mean: Any = 0.0
) -> Kernel:
    """Compute the gradient kernel of what the loss or the head's map reads, and record the head's gradient.

        linear: G_ii = 1/T^2, else 0;  mse: G_ii = 4/(T^2 d), else 0, the part of the targets
        cross entropy: G_ij = (s^2 d / T^2) E sum_k (p_ik - t_ik)(p_jk - t_jk), s^2 a head weight's variance

    Args:
        arch: The architecture; cross entropy needs its head.
        kernel: Kernel of the final hidden states, or of the head's hidden layer, per coordinate.
        layout: How many tokens and sequences there are.
        loss: The loss.
        record: Collects the head's gradient.
        mean: Mean over coordinates of the final hidden states, as `Step.mean`.

    Returns:
        G of the same, summed over coordinates.

    Raises:
        InputError: If there is no head.
        MissingRuleError: If the logits are capped, or the mean square error has no norm below it, or one
            whose gains differ or whose shifts are not 0.

    Assumes:
        Width to infinity; an untied head; labels independent of everything else.

    Source:
        xiong2020, Sec. 3.1 (the loss).
    """
    pairs, total = real_pairs(layout)
    if loss.name == "linear":
        return pairs * identity(layout) / total**2
    if loss.name == "mse":
        pend_mean_square(arch, kernel, mean, layout, record)
        return 4 * pairs * identity(layout) / (total**2 * arch.width)
    if arch.head is None:
        raise InputError(
            "loss='cross_entropy' needs an output head: give the preset vocab=, or use loss='linear'"
        )
    head, scale_sq, sigma_sq = arch.head.linear, float(arch.head.scale) ** 2, logit_variance(arch)
    # what all classes share, such as the mean of the biases, is not seen
    bias = 0.0 if head.bias is None else float(head.bias.variance)
    logits = scale_sq * (sigma_sq * kernel + bias)
    check_cap(arch.head, layout.own(logits))
    first, second = layout.pair(layout.own(logits))
    products = class_overlap(head.d_out, first, second, logits)
    overlaps = pairs * (products + target_overlap(head.d_out, loss, layout)) * scale_sq / total**2
    of_weight = head.d_in * layout.inner(kernel, overlaps)
    if arch.head.tied and arch.embedding is not None:
        record.table(arch.embedding.name, of_weight, shared=True)
    else:
        record.parameter(arch.head.name, "weight", of_weight)
    if head.bias is not None:
        record.parameter(arch.head.name, "bias", layout.sum(overlaps))
    # By Stein's lemma E sum_k p_ik z_ik = var_i (1 - E sum_k p_ik^2); the label's logit has mean 0.
    pull = scale_sq * sigma_sq * layout.own(kernel) * (1 - layout.own(products))
    pend_pull(arch, pull, kernel, layout, record)
    return sigma_sq * overlaps

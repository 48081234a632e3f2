"""Losses at random targets: linear probe, mean square error, cross entropy, each with a stream of targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from empirical.draws import normal
from meanfield.random import Stream


def linear(hidden: Tensor, head: nn.Module, targets: Stream, label_smoothing: float) -> Tensor:
    """Linear probe of the last hidden states; the head is not read.

        loss = (1/T) sum_i <r_i, y_i>,  r_i ~ N(0, I/d)

    Args:
        hidden: Last hidden states y, (batch, tokens, width).
        head: The output head.
        targets: Stream from which the r_i are drawn.
        label_smoothing: Not read.

    Returns:
        The loss, a scalar.
    """
    y = _rows(hidden)
    r = normal(targets, tuple(y.shape), y) / y.shape[1] ** 0.5  # (batch * tokens, width)
    return (r * y).sum() / y.shape[0]


def mse(hidden: Tensor, head: nn.Module, targets: Stream, label_smoothing: float) -> Tensor:
    """Mean square error of the last hidden states; the head is not read.

        loss = (1/(T d)) sum_i ||y_i - t_i||^2,  t_i ~ N(0, I)

    Args:
        hidden: Last hidden states y, (batch, tokens, width).
        head: The output head.
        targets: Stream from which the t_i are drawn.
        label_smoothing: Not read.

    Returns:
        The loss, a scalar.
    """
    y = _rows(hidden)
    return (y - normal(targets, tuple(y.shape), y)).square().mean()


def cross_entropy(hidden: Tensor, head: nn.Module, targets: Stream, label_smoothing: float) -> Tensor:
    """Mean over the T positions of the cross entropy with uniform random targets.

    Args:
        hidden: Last hidden states, (batch, tokens, width).
        head: The output head, width -> vocabulary.
        targets: Stream from which the target classes are drawn.
        label_smoothing: Weight of the uniform distribution in the target, as in torch.

    Returns:
        The loss, a scalar.

    Source:
        xiong2020, Sec. 3.1.
    """
    logits = _rows(head(hidden))
    classes = torch.from_numpy(targets.integers(logits.shape[1], size=logits.shape[0])).to(logits.device)
    return F.cross_entropy(logits, classes, label_smoothing=label_smoothing)


def _rows(x: Tensor) -> Tensor:
    """Lay tokens out as rows, in a type in which a loss can be summed."""
    rows = x.flatten(0, 1)  # (batch * tokens, width or vocab)
    return rows.float() if rows.dtype == torch.bfloat16 else rows


LOSSES: dict[str, Callable[[Tensor, nn.Module, Stream, float], Tensor]] = {
    "cross_entropy": cross_entropy,
    "linear": linear,
    "mse": mse,
}
READ_THE_HEAD = ("cross_entropy",)
"""The losses on logits; the others are on hidden states."""

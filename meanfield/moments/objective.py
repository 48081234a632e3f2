"""From the final hidden states through the head to the loss, and back."""

from __future__ import annotations

from typing import Any

from meanfield.moments.backward import backward
from meanfield.moments.forward import forward
from meanfield.moments.identity import identity_share
from meanfield.moments.loss import Loss, loss_gradient
from meanfield.moments.record import Record
from meanfield.moments.state import Kernel, Layout
from meanfield.moments.tied import Words, tied_gradient
from meanfield.ops import Transformer


def objective_gradient(
    arch: Transformer,
    kernel: Kernel,
    mean: Any,
    layout: Layout,
    loss: Loss,
    record: Record,
    words: Words | None = None,
) -> Kernel:
    """Compute the gradient kernel at the final hidden states, and record the parameters of the head.

    Args:
        arch: The architecture; cross entropy needs its head.
        kernel: Kernel of the final hidden states, per coordinate.
        mean: Their mean over coordinates, as `Step.mean`.
        layout: Layout of the tokens.
        loss: The loss.
        record: Collects parameters; its layer is that of what follows the stack.
        words: What a tied head meets again, under cross entropy.

    Returns:
        G at the final hidden states, summed over coordinates.

    Source:
        definition; the hidden layer of a head is any other op.

    Example:
        >>> import numpy as np
        >>> from meanfield import paper_post_ln
        >>> from meanfield.moments.state import Exchangeable
        >>> arch, layout = paper_post_ln(width=8, depth=1), Exchangeable(tokens=2, batch=1)
        >>> objective_gradient(arch, np.array([1.0, 0.0, 0.0]), 0.0, layout, Loss(), Record()).tolist()
        [0.25, 0.0, 0.0]
    """
    transform = None if arch.head is None or loss.name != "cross_entropy" else arch.head.transform
    if transform is None:
        if words is None:
            return loss_gradient(arch, kernel, layout, loss, record, mean)
        return tied_gradient(arch, kernel, layout, loss, words, record)
    step = forward(transform, kernel, layout, mean)
    if words is None:
        gradient = loss_gradient(arch, step.after, layout, loss, record, step.mean)
    else:
        met = Words(words.share * identity_share(step, layout), words.rows)
        gradient = tied_gradient(arch, step.after, layout, loss, met, record)
    return backward(step.op, step, gradient, layout, record)

"""A whole Transformer: forward through all layers, loss, and back."""

from __future__ import annotations

import numpy as np

from meanfield.moments.backward import Record, backward
from meanfield.moments.forward import forward
from meanfield.moments.loss import loss_gradient
from meanfield.moments.state import Exchangeable, Kernel, Step
from meanfield.ops import Transformer


def _input_kernel(arch: Transformer, q: float, cov: float) -> Kernel:
    """Build the kernel of the input: (q, cov) for vectors, or the embedding of uniform random tokens."""
    if arch.embedding is None:
        return np.array([q, cov, 0.0])
    # Two random tokens share their row with probability 1/V, so cov = q/V on average.
    own = float(arch.embedding.scale) ** 2 * float(arch.embedding.weight.variance)
    return np.array([own, own / arch.embedding.vocab, own / arch.embedding.vocab])


def propagate(
    arch: Transformer,
    layout: Exchangeable,
    *,
    loss: str = "linear",
    label_smoothing: float = 0.0,
    q: float = 1.0,
    cov: float = 0.0,
) -> Record:
    """Run the mean-field recursion forward and backward through a Transformer.

    Args:
        arch: The architecture.
        layout: Tokens and sequences.
        loss: ``"linear"`` or ``"cross_entropy"``.
        label_smoothing: For cross entropy.
        q: Second moment per coordinate of input vectors; ignored where there is an embedding.
        cov: The same between two tokens of a sequence.

    Returns:
        Every parameter's E||dL/dtheta||^2, and the kernels at every point.

    Raises:
        MissingRuleError: If an op has no rule.
        InputError: If the loss does not fit the architecture.

    Example:
        >>> from meanfield import paper_post_ln
        >>> record = propagate(paper_post_ln(width=300, depth=2), Exchangeable(tokens=1, batch=1))
        >>> round(record.grad_sq[2, "ffn.down", "weight"], 9)
        100.0
    """
    start = _input_kernel(arch, q, cov)
    steps: list[tuple[int, Step]] = []
    kernel = start
    for layer, block in arch.blocks():
        steps.append((layer, forward(block, kernel, layout)))
        kernel = steps[-1][1].after
    if arch.final_norm is not None:
        steps.append((arch.depth + 1, forward(arch.final_norm, kernel, layout)))
        kernel = steps[-1][1].after

    record = Record(layer=arch.depth + 1)
    gradient = loss_gradient(arch, kernel, layout, loss, label_smoothing, record)
    for layer, step in reversed(steps):
        record.layer = layer
        gradient = backward(step.op, step, gradient, layout, record)
    record.layer = 0
    record.point("input", start, gradient)
    if arch.embedding is not None:
        same_row = np.array([1.0, 1 / arch.embedding.vocab, 1 / arch.embedding.vocab])
        scale_sq = float(arch.embedding.scale) ** 2
        record.parameter("embedding", "weight", scale_sq * layout.inner(same_row, gradient))
    return record

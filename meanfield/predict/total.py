"""The total square gradient norm, in memory that does not grow with depth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from meanfield.checks import check_architecture, check_moments
from meanfield.errors import InputError, positive_integer
from meanfield.moments.backward import backward
from meanfield.moments.forward import forward
from meanfield.moments.inputs import Input, input_kernel, record_inputs
from meanfield.moments.loss import Loss
from meanfield.moments.objective import objective_gradient
from meanfield.moments.record import Record
from meanfield.moments.stack import needs_order
from meanfield.moments.state import Exchangeable, Kernel, Step
from meanfield.ops import EncoderDecoder, ParameterKey, Transformer


@dataclass(slots=True)
class _Total(Record):
    """A record that keeps the sum alone."""

    total: float = 0.0

    def parameter(self, module: str, parameter: str, grad_sq: float) -> None:
        """Add to the sum."""
        self.total += grad_sq

    def pend(self, key: ParameterKey, grad_sq: float) -> None:
        """Add to the sum."""
        self.total += grad_sq

    def point(self, module: str, kernel: Kernel, gradient: Kernel) -> None:
        """Keep nothing."""


def total_grad_sq(
    arch: Transformer,
    *,
    tokens: int,
    batch: int = 1,
    loss: str = "linear",
    label_smoothing: float = 0.0,
    q: float = 1.0,
    cov: float = 0.0,
) -> float:
    """Compute the sum of E||dL/dtheta||^2 over all parameters at infinite width, for exchangeable tokens.

        total(G_l) = <a_l, G_l> is linear in the gradient kernel after layer l, and
        a_l = w_l + B_l^T a_(l-1): w_l the layer's own parameters, B_l its backward map

    One sweep through the layers carries the kernel and a_l: memory does not depend on depth.

    Args:
        arch: One stack whose tokens are exchangeable: without masks and positions.
        tokens: Tokens in a sequence.
        batch: Sequences.
        loss: As for `meanfield.predict`.
        label_smoothing: For cross entropy.
        q: Second moment per coordinate of the input vectors.
        cov: The same between two input tokens of a sequence.

    Returns:
        The total.

    Raises:
        InputError: If tokens of this architecture differ by position: sum the table of `meanfield.predict`.

    Source:
        xiong2020, App. B-F, for the maps; the transposed sweep is reverse accumulation.

    Example:
        >>> from meanfield import paper_post_ln, predict
        >>> arch = paper_post_ln(width=300, depth=3)
        >>> float(round(total_grad_sq(arch, tokens=4) / predict(arch, tokens=4).df.grad_sq.sum(), 12))
        1.0
    """
    arch_checked = check_architecture(arch)
    tokens, batch = positive_integer("tokens", tokens), positive_integer("batch", batch)
    if isinstance(arch_checked, EncoderDecoder) or needs_order(arch_checked, batch):
        raise InputError("tokens of this architecture differ by position: sum the table of mf.predict")
    check_moments(q, cov, tokens)
    layout, given = Exchangeable(tokens, batch), Input(q, cov)
    kernel, mean = input_kernel(arch, layout, given), 0.0
    basis = np.eye(3)
    slopes = np.array([_embeddings(arch, layout, given, gradient) for gradient in basis])
    for op in chain([arch.entry], (block for _, block in arch.blocks()), [arch.final_norm]):
        if op is not None:
            step = forward(op, kernel, layout, mean)
            kernel, mean, slopes = step.after, step.mean, _before(step, slopes, layout)
    record = _Total(layer=arch.depth + 1)
    if arch.head is not None and arch.head.tied and loss == "cross_entropy":
        raise InputError("a tied head's part is not linear in the gradient: sum the table of mf.predict")
    gradient = objective_gradient(arch, kernel, mean, layout, Loss(loss, label_smoothing), record)
    return float(np.vdot(slopes, gradient)) + record.total


def _embeddings(arch: Transformer, layout: Exchangeable, given: Input, gradient: Kernel) -> float:
    record = _Total()
    record_inputs(arch, layout, given, gradient, record)
    return record.total


def _before(step: Step, slopes: Kernel, layout: Exchangeable) -> Kernel:
    """Slopes of the total in the gradient after an op, from those before it and the op's own parameters."""
    after = np.zeros_like(step.after)
    for place in np.ndindex(*after.shape):
        unit = np.zeros_like(after)
        unit[place] = 1.0
        record = _Total()
        before = backward(step.op, step, unit, layout, record)
        after[place] = record.total + float(np.vdot(slopes, before))
    return after

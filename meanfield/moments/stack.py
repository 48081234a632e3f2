"""A whole Transformer: forward through all layers, loss, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from meanfield.errors import InputError
from meanfield.moments.backward import backward
from meanfield.moments.forward import forward
from meanfield.moments.identity import identity_share
from meanfield.moments.inputs import Input, input_kernel, record_inputs, same_row
from meanfield.moments.loss import Loss
from meanfield.moments.objective import objective_gradient
from meanfield.moments.record import Record
from meanfield.moments.state import Gram, Kernel, Layout, Step
from meanfield.moments.tied import Words
from meanfield.ops import Attention, EncoderDecoder, Transformer, walk


def needs_order(arch: Transformer | EncoderDecoder, batch: int = 1) -> bool:
    """Whether tokens of this architecture differ by position, so that the T x T kernel is needed.

    Args:
        arch: The architecture.
        batch: Sequences: learned positions make those of two sequences alike.

    Returns:
        True for masks, positions, capped scores and encoder-decoders.

    Example:
        >>> from meanfield import pre_ln
        >>> needs_order(pre_ln(width=8, depth=1)), needs_order(pre_ln(width=8, depth=1, causal=True))
        (False, True)
    """
    if isinstance(arch, EncoderDecoder) or (arch.position is not None and batch > 1):
        return True
    attentions = [op for run in arch.layers for op in walk(run) if isinstance(op, Attention)]
    return any(op.masked or op.rotary or op.relative_bias or op.alibi or op.softcap for op in attentions)


@dataclass(frozen=True, slots=True)
class Pass:
    """The forward pass of one stack.

    Args:
        start: Kernel of the input.
        steps: Steps with their layer: the entry (0), the layers, what follows them.
        after: Kernel of the final hidden states.
        mean: Their mean over coordinates, as `Step.mean`.
    """

    start: Kernel
    steps: list[tuple[int, Step]]
    after: Kernel
    mean: Any = 0.0

    def share(self, arch: Transformer, layout: Layout) -> Any:
        """Compute t of y_i = t_i e_i + what is independent of e_i, the row that token i reads.

        Args:
            arch: The architecture, with an embedding.
            layout: Layout of the tokens.

        Returns:
            One number per token, or one for all.
        """
        assert arch.embedding is not None
        share: Any = float(arch.embedding.scale)
        for _, step in self.steps:
            share = share * identity_share(step, layout)
        return share


def run_forward(arch: Transformer, layout: Layout, given: Input) -> Pass:
    """Send the kernel of the input through all layers.

    Args:
        arch: The architecture.
        layout: Layout of the tokens.
        given: The input.

    Returns:
        The pass.

    Raises:
        InputError: If second moments leave float64.
    """
    start = kernel = input_kernel(arch, layout, given)
    mean: Any = 0.0
    steps: list[tuple[int, Step]] = []
    ops = [(0, arch.entry), *arch.blocks(), (arch.depth + 1, arch.final_norm)]
    for layer, op in ops:
        if op is None:
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is told by name
            step = forward(op, kernel, layout, mean)
        kernel, mean = step.after, step.mean
        steps.append((layer, step))
    return Pass(start, steps, kernel, mean)


def run_backward(
    arch: Transformer, done: Pass, gradient: Kernel, layout: Layout, given: Input, record: Record
) -> None:
    """Send a gradient kernel back through all layers and record every parameter.

    Args:
        arch: The architecture.
        done: The forward pass.
        gradient: G at the final hidden states.
        layout: Layout of the tokens.
        given: The input.
        record: Collects parameters and points.
    """
    record.swept(done.steps, done.start, layout)
    has_memory = isinstance(layout, Gram) and layout.memory is not None
    for layer, step in reversed(done.steps):
        record.layer = layer
        gradient = backward(step.op, step, gradient, layout, record)
        if not has_memory:  # the encoder's gradient is summed over layers, with one exponent
            gradient = record.rescale(gradient)
    record.layer = 0
    record.point("input", done.start, gradient)
    record_inputs(arch, layout, given, gradient, record)


def propagate(
    arch: Transformer,
    layout: Layout,
    *,
    loss: Loss | None = None,
    given: Input | None = None,
    record: Record | None = None,
) -> Record:
    """Run the mean-field recursion forward and backward through a Transformer.

    Args:
        arch: The architecture.
        layout: Tokens and sequences.
        loss: The loss; linear without one.
        given: The input; independent vectors of second moment 1 without one.
        record: Collects what is found; a fresh one if None.

    Returns:
        Every parameter's E||dL/dtheta||^2, and the kernels at every point.

    Raises:
        MissingRuleError: If an op has no rule.
        InputError: If the loss does not fit the architecture.

    Example:
        >>> from meanfield import paper_post_ln
        >>> from meanfield.moments.state import Exchangeable
        >>> record = propagate(paper_post_ln(width=300, depth=2), Exchangeable(tokens=1, batch=1))
        >>> round(record.grad_sq[2, "ffn.down", "weight"], 9)
        100.0
    """
    given = given or Input()
    done = run_forward(arch, layout, given)
    record = record or Record()
    record.layer = arch.depth + 1
    gradient = _loss_gradient(arch, done, layout, loss or Loss(), given, record)
    run_backward(arch, done, gradient, layout, given, record)
    return record


def _loss_gradient(
    arch: Transformer, done: Pass, layout: Layout, loss: Loss, given: Input, record: Record
) -> Kernel:
    words = None
    if loss.name == "cross_entropy" and arch.head is not None and arch.head.tied:
        words = Words(done.share(arch, layout), same_row(arch, "embedding", layout, given.ids))
    return objective_gradient(arch, done.after, done.mean, layout, loss, record, words)


def propagate_encoder_decoder(
    arch: EncoderDecoder,
    source: Gram,
    target: Gram,
    *,
    loss: Loss,
    given: tuple[Input, Input],
    record: Record | None = None,
) -> Record:
    """Run the recursion through an encoder and the decoder that attends to it.

    Args:
        arch: The architecture.
        source: Layout of the encoder's tokens.
        target: Layout of the decoder's tokens.
        loss: The loss on the decoder's output.
        given: Inputs of the encoder and of the decoder, independent of each other.
        record: Collects what is found; a fresh one if None.

    Returns:
        Every parameter's E||dL/dtheta||^2, names prefixed by ``encoder.`` or ``decoder.``; that of a shared
        table is the sum of its parts, whose gradients fresh weights in cross-attention make independent.

    Raises:
        InputError: If the decoder has no cross-attention.
    """
    encoded = run_forward(arch.encoder, source, given[0])
    target = replace(target, memory=source, memory_kernel=encoded.after)
    decoded = run_forward(arch.decoder, target, given[1])
    record = record or Record()
    record.layer, record.prefix = arch.decoder.depth + 1, "decoder."
    if arch.shared_embedding and arch.encoder.embedding is not None:
        record.common = arch.encoder.embedding.name
    gradient = _loss_gradient(arch.decoder, decoded, target, loss, given[1], record)
    run_backward(arch.decoder, decoded, gradient, target, given[1], record)
    memory = np.asarray(record.memory_gradient)
    if memory.ndim == 0:
        raise InputError(f"{arch.decoder.name} has no cross-attention: predict the two stacks by themselves")
    record.prefix = "encoder."
    run_backward(arch.encoder, encoded, memory, source, given[0], record)
    return record

"""Counts on which the memory and the time of a measurement depend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from empirical.build import Architecture
from empirical.losses import READ_THE_HEAD
from meanfield.ops import (
    Attention,
    EncoderDecoder,
    FeedForward,
    Gain,
    Linear,
    Norm,
    Op,
    Residual,
    Transformer,
    walk,
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a model and its data are.

    Args:
        weights: Entries of all parameters.
        largest: Entries of the largest of them.
        products: Multiplications of a forward pass.
        states: Numbers that the ops of a forward pass give, all tokens together, attention weights left out.
        scores: Attention weights.
        ends: Sum over linear maps of the sizes of both ends.
        maps: Number of linear maps that act on every token.
        layers: Number of layers.
        tokens: Tokens of all sequences of a mini-batch.
    """

    weights: int = 0
    largest: int = 0
    products: int = 0
    states: int = 0
    scores: int = 0
    ends: int = 0
    maps: int = 0
    layers: int = 0
    tokens: int = 0


def sizes(arch: Architecture, setting: Mapping[str, Any]) -> Sizes:
    """Count the weights and hidden states of a measurement.

    Args:
        arch: The architecture.
        setting: Values of `Setting`'s fields.

    Returns:
        The counts; those of an encoder-decoder are the sums over its stacks, with the longer sequence.

    Example:
        >>> import meanfield as mf
        >>> arch = mf.paper_post_ln(width=8, depth=2)  # a layer: 3 matrices, 2 biases, 2 norms
        >>> sizes(arch, {"tokens": 4, "source_tokens": None, "batch": 1, "loss": "linear"}).weights
        480
    """
    pair = isinstance(arch, EncoderDecoder)
    stacks = [arch.encoder, arch.decoder] if isinstance(arch, EncoderDecoder) else [arch]
    length = max(setting["tokens"], (setting["source_tokens"] or 0) if pair else 0)
    rows = setting["batch"] * length
    weights = largest = products = states = scores = ends = maps = 0
    for op, times in (counted for stack in stacks for counted in _ops(stack, setting["loss"])):
        own = 0
        match op:
            case Linear(d_in=d_in, d_out=d_out):
                own = d_in * d_out + (d_out if op.bias is not None else 0)
                products += times * rows * d_in * d_out
                states += times * rows * d_out
                ends += times * (d_in + d_out)
                maps += times
            case FeedForward(up=up):
                states += times * rows * up.d_out  # behind the activation
            case Attention(value=value, heads=heads):
                states += times * rows * (op.output.d_in if op.output is not None else value.d_out)
                if op.kind == "softmax":
                    scores += times * heads * rows * length
                    query = value.d_out if op.query is None else op.query.d_out
                    products += 2 * times * rows * length * query
            case Norm(width=width):
                own = 2 * width
                states += times * rows * width
            case Gain(width=width):
                own = width
                states += times * rows * width
            case Residual():
                states += times * rows * stacks[0].width
        weights += times * own
        largest = max(largest, own)
    for stack in stacks:
        for table in (stack.embedding, stack.position, stack.segment):
            if table is not None:
                weights += table.vocab * table.width
                largest = max(largest, table.vocab * table.width)
    depth = sum(stack.depth for stack in stacks)
    return Sizes(weights, largest, products, states, scores, ends, maps, depth, rows)


def _ops(stack: Transformer, loss: str) -> Iterator[tuple[Op, int]]:
    """Yield every op of a stack with the number of times it is there; the head if the loss reads it."""
    for run in stack.layers:
        for op in walk(run.block):
            yield op, run.times
    for part in (stack.entry, stack.final_norm):
        for op in walk(part) if part is not None else ():
            yield op, 1
    if stack.head is not None and (loss in READ_THE_HEAD or not stack.head.tied):
        yield stack.head.linear, 1

"""Counts on which the memory and the time of a measurement depend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
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
        tables: Those of embeddings and head among them.
        products: Multiplications of a forward pass.
        states: Numbers that the ops of a forward pass give, all tokens together, attention weights left out.
        scores: Attention weights.
        ends: Sum over linear maps of the sizes of both ends.
        maps: Number of linear maps.
        layers: Number of layers.
        tokens: Tokens of all sequences of a mini-batch.
        largest: Weights of the largest linear map.
        widest: Size of a token where it is largest.
    """

    weights: int = 0
    tables: int = 0
    products: int = 0
    states: int = 0
    scores: int = 0
    ends: int = 0
    maps: int = 0
    layers: int = 0
    tokens: int = 0
    largest: int = 0
    widest: int = 0


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
    stacks = [arch.encoder, arch.decoder] if isinstance(arch, EncoderDecoder) else [arch]
    length = max(setting["tokens"], setting["source_tokens"] or 0)
    rows = setting["batch"] * length
    total = {**dict.fromkeys((field.name for field in fields(Sizes)), 0), "tokens": rows}
    for stack in stacks:
        for op, times in _ops(stack, setting["loss"]):
            for name, value in _counts(op, rows, length, stack.width).items():
                total[name] += times * value
            if isinstance(op, Linear):
                total["largest"] = max(total["largest"], op.d_in * op.d_out)
                total["widest"] = max(total["widest"], op.d_in, op.d_out)
        for table in (stack.embedding, stack.position, stack.segment):
            total["tables"] += 0 if table is None else table.vocab * table.width
        if stack.head is not None:
            head = stack.head.linear.d_in * stack.head.linear.d_out
            total["tables"] += 0 if stack.head.tied else head
            total["weights"] -= head if setting["loss"] in READ_THE_HEAD else 0  # counted among the maps
        total["layers"] += stack.depth
    total["weights"] += total["tables"]
    return Sizes(**total)


def _counts(op: Op, rows: int, length: int, width: int) -> dict[str, int]:
    """Count what one op adds, without the ops inside it."""
    match op:
        case Linear(d_in=d_in, d_out=d_out):
            own = d_in * d_out + (d_out if op.bias is not None else 0)
            product, ends = rows * d_in * d_out, d_in + d_out
            return {"weights": own, "products": product, "states": rows * d_out, "ends": ends, "maps": 1}
        case FeedForward(up=up):  # its activation
            return {"states": rows * up.d_out}
        case Attention(kind="softmax", heads=heads, value=value):  # scores, and the mixed values
            mixed = value.d_out * heads // op.kv_heads
            scores = heads * rows * length
            return {"scores": scores, "products": 2 * rows * length * mixed, "states": rows * mixed}
        case Attention(value=value):
            return {"states": rows * value.d_out}
        case Norm():
            own = (2 if op.kind == "layernorm" else 1) * op.width
            return {"weights": own, "states": rows * op.width}
        case Gain():
            return {"weights": op.width, "states": rows * op.width}
        case Residual():
            return {"states": rows * width}
        case _:
            return {}


def _ops(stack: Transformer, loss: str) -> Iterator[tuple[Op, int]]:
    """Yield every op of a stack with the number of times it is there; the head if the loss reads it."""
    for run in stack.layers:
        for op in walk(run.block):
            yield op, run.times
    for part in (stack.entry, stack.final_norm):
        for op in walk(part) if part is not None else ():
            yield op, 1
    if stack.head is not None and loss in READ_THE_HEAD:
        yield stack.head.linear, 1

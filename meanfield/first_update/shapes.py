"""How many entries every parameter tensor has, and from which law they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from meanfield.ops import (
    Attention,
    Draw,
    Embedding,
    EncoderDecoder,
    FeedForward,
    Gain,
    Linear,
    Norm,
    Op,
    ParameterKey,
    Transformer,
)
from meanfield.ops.walk import children


class Shape(NamedTuple):
    """A parameter tensor before training.

    Attributes:
        shape: Its size, (rows, columns) or (entries,).
        square: Second moment of an entry.
    """

    shape: tuple[int, ...]
    square: float

    @property
    def size(self) -> int:
        """Number of entries."""
        size = 1
        for length in self.shape:
            size *= length
        return size


def parameter_shapes(arch: Transformer | EncoderDecoder) -> dict[ParameterKey, Shape]:
    """List the parameter tensors of an architecture under the names that predictions give them.

    Args:
        arch: The architecture.

    Returns:
        Key to shape, in order of layers; a tied head or a shared table is there once.

    Example:
        >>> from meanfield import paper_pre_ln
        >>> shapes = parameter_shapes(paper_pre_ln(width=8, depth=1))
        >>> shapes[1, "ffn.up", "weight"]
        Shape(shape=(8, 8), square=0.125)
    """
    if isinstance(arch, Transformer):
        return _stack(arch, "", "")
    common = arch.encoder.embedding.name if arch.shared_embedding and arch.encoder.embedding else ""
    return _stack(arch.encoder, "encoder.", common) | _stack(arch.decoder, "decoder.", common)


def _stack(arch: Transformer, prefix: str, common: str) -> dict[ParameterKey, Shape]:
    found: dict[ParameterKey, Shape] = {}

    def add(layer: int, module: str, parameter: str, shape: tuple[int, ...], law: Draw) -> None:
        name = module if module == common else prefix + module
        square = float(law.variance) + float(law.mean) ** 2
        found[ParameterKey(layer, name, parameter)] = Shape(shape, square)

    for table in (arch.position, arch.segment, arch.embedding):
        if table is not None:
            add(0, *_table(table))
    parts = [(0, arch.entry), *arch.blocks(), (arch.depth + 1, arch.final_norm)]
    if arch.head is not None:
        parts.append((arch.depth + 1, arch.head.transform))
    for layer, op in parts:
        for row in _of(op) if op is not None else ():
            add(layer, *row)
    if arch.head is not None:
        rows = _linear(arch.head.name, arch.head.linear)
        for row in rows:
            if not (arch.head.tied and row[1] == "weight"):
                add(arch.depth + 1, *row)
    return found


Row = tuple[str, str, tuple[int, ...], Draw]


def _table(table: Embedding) -> Row:
    return table.name, "weight", (table.vocab, table.width), table.weight


def _linear(name: str, op: Linear) -> list[Row]:
    rows: list[Row] = [(name, "weight", (op.d_in, op.d_out), op.weight)]
    return rows if op.bias is None else [*rows, (name, "bias", (op.d_out,), op.bias)]


def _maps(name: str, maps: dict[str, Linear | None]) -> list[Row]:
    return [row for role, op in maps.items() if op is not None for row in _linear(f"{name}.{role}", op)]


def _own(op: Op) -> list[Row]:
    """List the parameters of an op itself."""
    match op:
        case Linear():
            return _linear(op.name, op)
        case Attention():
            rows = _maps(op.name, {"q": op.query, "k": op.key, "v": op.value, "o": op.output})
            bias = op.relative_bias
            if bias is None or bias.shared:
                return rows
            return [*rows, (bias.name, "weight", (bias.buckets, op.heads), bias.weight)]
        case FeedForward():
            return _maps(op.name, {"up": op.up, "gate": op.gate, "down": op.down})
        case Norm() if op.affine:
            gain: Row = (op.name, "weight", (op.width,), op.gain)
            return [gain, (op.name, "bias", (op.width,), op.shift)] if op.has_shift else [gain]
        case Gain():
            return [(op.name, "weight", (op.width,), Draw(0, mean=op.value))]
        case _:
            return []


def _of(op: Op) -> Iterator[Row]:
    """Yield the parameters of an op and of all ops inside it."""
    yield from _own(op)
    named = isinstance(op, Attention | FeedForward)  # by the role that a map has there
    for child in children(op):
        if not (named and isinstance(child, Linear)):
            yield from _of(child)

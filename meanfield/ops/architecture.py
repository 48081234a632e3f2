"""A whole Transformer as a value: embedding, layers, norm and head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from meanfield.errors import InputError, positive_integer
from meanfield.ops.attention import Attention
from meanfield.ops.base import Draw, Number, Op, finite
from meanfield.ops.feed_forward import FeedForward
from meanfield.ops.structure import Repeat, Sequential
from meanfield.ops.token_maps import Linear
from meanfield.ops.walk import walk


@dataclass(frozen=True, slots=True)
class Embedding(Op):
    """The table that turns a token of a vocabulary into a vector, times a scale.

    Args:
        name: Module name in tables, ``"embedding"``.
        vocab: Number of rows.
        width: Size of a row.
        weight: Law of the entries.
        scale: Factor on the looked-up row, for example sqrt(width).
    """

    name: str
    vocab: int
    width: int
    weight: Draw
    scale: Number = 1

    def __post_init__(self) -> None:
        positive_integer("vocab", self.vocab)
        positive_integer("width", self.width)
        finite("embedding_scale", self.scale)


@dataclass(frozen=True, slots=True)
class Head(Op):
    """The output head: logits scale * (y W + b) over a vocabulary, y = transform(x).

    Args:
        name: Module name in tables, ``"head"``.
        linear: The map from y to the vocabulary.
        tied: Whether W is the transposed token embedding; its gradient then counts as the embedding's. A bias
            is the head's own.
        scale: Factor on the logits.
        softcap: c in c tanh(logit / c), or None.
        transform: What the head does to the last hidden states first, for example a map, an activation and a
            norm; None for nothing. Losses on hidden states do not read it.

    Raises:
        InputError: If scale or softcap is no number that can be, or sizes do not fit together.
    """

    name: str
    linear: Linear
    tied: bool = False
    scale: Number = 1
    softcap: Number | None = None
    transform: Op | None = None

    def __post_init__(self) -> None:
        finite("logit scale", self.scale)
        if self.softcap is not None:
            finite("logit softcap", self.softcap)
            if self.softcap <= 0:
                raise InputError(
                    f"logit softcap={self.softcap} is not above 0: give a positive number, or None"
                )
        maps = [] if self.transform is None else [op for op in walk(self.transform) if isinstance(op, Linear)]
        if maps and maps[-1].d_out != self.linear.d_in:
            raise InputError(
                f"the head's transform gives {maps[-1].d_out} coordinates and its map takes "
                f"{self.linear.d_in}: make them equal"
            )


class ParameterKey(NamedTuple):
    """Names one parameter tensor: the key columns ``layer, module, parameter`` of every table.

    Layers count from 1; the embedding has layer 0; what follows the last layer (final norm, head) has
    depth + 1.
    """

    layer: int
    module: str
    parameter: str


@dataclass(frozen=True, slots=True)
class Transformer:
    """A stack of layers with its norm, embedding and head: the value that all interpreters read.

    Args:
        name: Preset name, the ``arch`` column.
        placement: Where norms sit, for example ``"pre_ln"``.
        init: Name of the initialisation, the ``init`` column.
        layers: Runs of equal layers, in order.
        final_norm: Norm after the last layer, the end of a second stream, what else follows, or None.
        embedding: Token embedding, or None when the input is vectors.
        head: Output head, or None.
        position: Learned embedding of positions 0, 1, ..., added to that of the tokens, or None.
        segment: Learned embedding of segments, all tokens in the first one, added as well, or None.
        entry: What acts between the embeddings and the first layer (norm, dropout, fork), or None.
        given: Size of the vectors that a stack without layers hands on, such as a memory that is given to a
            decoder; None for a stack with layers.
    """

    name: str
    placement: str
    init: str
    layers: tuple[Repeat, ...]
    final_norm: Op | None = None
    embedding: Embedding | None = None
    head: Head | None = None
    position: Embedding | None = None
    segment: Embedding | None = None
    entry: Op | None = None
    given: int | None = None

    def __post_init__(self) -> None:
        if not self.layers and self.given is None:
            raise InputError("a Transformer without layers: give at least one Repeat, or given=")
        if self.layers and self.given is not None:
            raise InputError(f"given={self.given} with layers: leave it out, the layers say their size")
        if self.embedding is None and (self.position is not None or self.segment is not None):
            raise InputError("position or segment without a token embedding: give embedding= as well")
        if self.head is not None and self.head.tied:
            if self.embedding is None:
                raise InputError("a tied head without a token embedding: give embedding=, or untie the head")
            table = (self.embedding.width, self.embedding.vocab)
            if (self.head.linear.d_in, self.head.linear.d_out) != table:
                raise InputError(
                    f"a tied head maps {self.head.linear.d_in} to {self.head.linear.d_out} and the embedding "
                    f"has rows of {table[0]} for {table[1]} tokens: make them equal"
                )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(run.times for run in self.layers)

    @property
    def feed_forward(self) -> FeedForward:
        """The first layer's feed-forward op."""
        return next(op for op in walk(self.layers[0]) if isinstance(op, FeedForward))

    @property
    def attention(self) -> Attention:
        """The first layer's (self-)attention op."""
        return next(op for op in walk(self.layers[0]) if isinstance(op, Attention))

    @property
    def width(self) -> int:
        """Size of a token in the residual stream."""
        return self.feed_forward.up.d_in if self.given is None else self.given

    def blocks(self) -> Iterator[tuple[int, Sequential]]:
        """Yield (layer, block) for every layer, counted from 1."""
        layer = 0
        for run in self.layers:
            for _ in range(run.times):
                layer += 1
                yield layer, run.block


@dataclass(frozen=True, slots=True)
class EncoderDecoder:
    """An encoder and a decoder that attends to it: the sequence-to-sequence Transformer.

    Each stack reads its own tokens, ids or vectors; the decoder carries the head.

    Args:
        name: Preset name, the ``arch`` column.
        encoder: The encoder stack.
        decoder: The decoder stack, with cross-attention, and with the head if there is one.
        shared_embedding: Whether the token embeddings of both are one table; it has one row in tables, whose
            module has no prefix. A tied head of the decoder reads the same table.

    Raises:
        InputError: If stacks that share their embedding have none, or two that differ.
    """

    name: str
    encoder: Transformer
    decoder: Transformer
    shared_embedding: bool = False

    def __post_init__(self) -> None:
        if not self.shared_embedding:
            return
        tables = self.encoder.embedding, self.decoder.embedding
        if tables[0] is None or tables[0] != tables[1]:
            raise InputError(
                "shared_embedding=True with two embeddings that differ, or without: give both stacks equal "
                "ones, or leave shared_embedding out"
            )

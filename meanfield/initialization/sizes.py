"""What a scheme reads and what it gives: the sizes of a stack, and the law of each of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from meanfield.ops import ZEROS, Draw


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes on which a scheme may depend.

    Args:
        width: Size of a token.
        kv_width: Joint size of all key or value heads.
        d_ff: Inner size of the feed-forward op.
        depth: Number of layers of this stack.
        heads: Number of query heads.
        head_size: Coordinates of a head; None for width / heads.
        stack: ``"encoder"`` or ``"decoder"`` of a pair, or ``"alone"``.
        other_depth: Number of layers of the other stack of the pair.

    Example:
        >>> Sizes(width=512, kv_width=512, d_ff=2048, depth=6, heads=6, head_size=64).q_width
        384
    """

    width: int
    kv_width: int
    d_ff: int
    depth: int
    heads: int = 1
    head_size: int | None = None
    stack: Literal["alone", "encoder", "decoder"] = "alone"
    other_depth: int | None = None

    @property
    def q_width(self) -> int:
        """Joint size of all query heads."""
        return self.width if self.head_size is None else self.heads * self.head_size

    @property
    def decoder_depth(self) -> int:
        """Number of layers of the decoder of the pair; of the stack itself where it is alone."""
        return self.other_depth if self.stack == "encoder" and self.other_depth else self.depth


@dataclass(frozen=True, slots=True)
class Initialization:
    """The law of each parameter of a model; every field is the law of one entry.

    Biases default to zero. What belongs to embeddings, head and gate is used only where a model has them.

    Args:
        name: Goes into the ``init`` column.
        gate: Law of the second matrix of a gated network; None for that of ``up``.
        position: Law of learned positions; None for that of ``embedding``.
        segment: Law of segments; None for that of ``embedding``.
        output_bias: Law of the bias behind ``o``; None for ``attention_bias``.
    """

    name: str
    q: Draw
    k: Draw
    v: Draw
    o: Draw
    up: Draw
    down: Draw
    embedding: Draw
    head: Draw
    attention_bias: Draw = ZEROS
    up_bias: Draw = ZEROS
    down_bias: Draw = ZEROS
    gate: Draw | None = None
    position: Draw | None = None
    segment: Draw | None = None
    output_bias: Draw | None = None
    head_bias: Draw = ZEROS

"""One pass through a model for several seeds at once: layout, random numbers, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield.errors import once
from meanfield.ops import Draw, Embedding, ParameterKey
from meanfield.weight_free.backend import Array, Backend

INTERPRETER = "weight_free.forward"


@dataclass(slots=True)
class Table:
    """A small tensor that is drawn explicitly because several layers may read it."""

    layer: int
    values: Array
    gradient: Array


@dataclass(frozen=True, slots=True)
class Feed:
    """What one stack is fed with.

    Attributes:
        tokens: Tokens in a sequence.
        real: Which tokens are no padding, (batch, tokens); None where all are.
        ids: Token ids, (seeds or 1, T); None for vectors.
        root: Root of the T x T Gram matrix of the vectors; None for independent ones.
        fixed: Whether that matrix is exactly theirs in every draw, and not its mean.
        features: Inner products of what makes the vectors, T x T, by the names of the parameters.
    """

    tokens: int
    real: NDArray[np.bool_] | None = None
    ids: NDArray[Any] | None = None
    root: NDArray[np.float64] | None = None
    fixed: bool = False
    features: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(slots=True)
class Memory:
    """The encoder's output, which every layer of the decoder reads, with the gradient it receives."""

    feed: Feed
    span: Any
    gradient: Array


@dataclass(slots=True)
class Rows:
    """The rows of a table that N tokens read, and what they receive.

    ``slot`` is, for each token, the first one of the same id; the row of that id is the slot's.
    """

    op: Embedding
    ids: Array  # (seeds or 1, N)
    slot: Array  # (seeds or 1, N)
    values: Array  # (seeds, N, width)
    gradient: Array  # the same, in the slots
    others: Array | float = 0.0  # squared norm over the rows of ids that do not occur, of a tied head


@dataclass(slots=True)
class Run:
    """Layout, random numbers and record of a pass; all arrays have a leading axis of seeds.

    Args:
        backend: Where arrays live.
        streams: One stream of random numbers for each seed.
        batch: Sequences.
        feed: What the present stack is fed with.
        prefix: Of the names of the present stack's modules.
    """

    backend: Backend
    streams: list[Any]
    batch: int
    feed: Feed
    prefix: str = ""
    layer: int = 0
    squares: dict[ParameterKey, Array] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    masks: dict[Any, Array] = field(default_factory=dict)
    memory: Memory | None = None
    tied: Rows | None = None  # what the head of the present stack reads
    common: Rows | None = None  # of a table that encoder and decoder share, tokens of the encoder first

    @property
    def xp(self) -> Any:
        """The array namespace."""
        return self.backend.xp

    @property
    def tokens(self) -> int:
        """Tokens in a sequence of the present stack."""
        return self.feed.tokens

    @property
    def seeds(self) -> int:
        """How many seeds run together."""
        return len(self.streams)

    def normal(self, *shape: int) -> Array:
        """Draw standard normals (seeds, *shape), each seed from its own stream."""
        return self.backend.normal(self.streams, shape)

    def keep(self, rate: float, shape: tuple[int, ...]) -> Array:
        """Draw a dropout mask (seeds, *shape): 0 at a rate, else 1/(1 - rate)."""
        kept = self.backend.uniform(self.streams, shape) >= rate
        return self.xp.astype(kept, self.backend.dtype) / (1 - rate)

    def draw(self, law: Draw, *shape: int) -> Array:
        """Draw an explicit tensor (seeds, *shape) from its law."""
        if law.law == "normal":
            unit = self.normal(*shape)
        else:
            unit = (self.backend.uniform(self.streams, shape) - 0.5) * 12**0.5
        return float(law.mean) + float(law.variance) ** 0.5 * unit

    def look_up(self, op: Embedding, ids: Array) -> Rows:
        """Draw the rows of ids (seeds or 1, N), one for each id that occurs."""
        xp = self.xp
        same = ids[:, :, None] == ids[:, None, :]  # (seeds or 1, N, N)
        slot = xp.argmax(xp.astype(same, xp.int8), axis=-1)
        values = self.draw(op.weight, ids.shape[1], op.width)
        return Rows(op, ids, slot, values, xp.zeros_like(values))

    def add(self, module: str, parameter: str, square: Array, *, prefix: str | None = None) -> None:
        """Note ||dL/dtheta||^2, of shape (seeds,), for a parameter of the present layer."""
        key = ParameterKey(self.layer, (self.prefix if prefix is None else prefix) + module, parameter)
        once(key, self.squares)
        self.squares[key] = square


def squared(x: Array, xp: Any) -> Array:
    """Sum the squares over all axes but the first."""
    flat = xp.reshape(x, (x.shape[0], 1, -1))
    return xp.reshape(flat @ xp.matrix_transpose(flat), (-1,))

"""One pass through a model for several seeds at once: layout, random numbers, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield.ops import Draw, ParameterKey
from meanfield.weight_free.backend import Array, Backend

INTERPRETER = "weight_free.forward"


@dataclass(slots=True)
class Table:
    """A small tensor that is drawn explicitly because several layers may read it."""

    layer: int
    values: Array
    gradient: Array


@dataclass(slots=True)
class Memory:
    """The encoder's output, which every layer of the decoder reads, with the gradient it receives."""

    values: Array
    span: Any
    gradient: Array


@dataclass(slots=True)
class Tied:
    """What a tied head knows of the embedding, and what it finds for it.

    ``slot`` is, for each token, the first one of the same id; the row of that id is the slot's.
    """

    ids: Array  # (seeds, T)
    slot: Array  # (seeds, T)
    rows: Array  # (seeds, T, width)
    law: Draw
    gradient: Array | None = None  # of the rows, in their slots
    others: Array | None = None  # squared norm over the rows of ids that do not occur


@dataclass(slots=True)
class Run:
    """Layout, random numbers and record of a pass; all arrays have a leading axis of seeds.

    Args:
        backend: Where arrays live.
        streams: One stream of random numbers for each seed.
        batch: Sequences.
        tokens: Tokens in a sequence.
        real: Which tokens are no padding, (batch, tokens); None where all are.
    """

    backend: Backend
    streams: list[Any]
    batch: int
    tokens: int
    real: NDArray[np.bool_] | None = None
    prefix: str = ""
    layer: int = 0
    squares: dict[ParameterKey, Array] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    masks: dict[Any, Array] = field(default_factory=dict)
    memory: Memory | None = None
    tied: Tied | None = None

    @property
    def xp(self) -> Any:
        """The array namespace."""
        return self.backend.xp

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

    def add(self, module: str, parameter: str, square: Array) -> None:
        """Note ||dL/dtheta||^2, of shape (seeds,), for a parameter of the present layer."""
        self.squares[ParameterKey(self.layer, self.prefix + module, parameter)] = square


def squared(x: Array, xp: Any) -> Array:
    """Sum the squares over all axes but the first."""
    flat = xp.reshape(x, (x.shape[0], 1, -1))
    return xp.reshape(flat @ xp.matrix_transpose(flat), (-1,))

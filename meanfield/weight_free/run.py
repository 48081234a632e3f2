"""One pass through a model for several seeds at once: layout, random numbers, and what it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from meanfield.errors import once
from meanfield.ops import Draw, Embedding, Head, Linear, ParameterKey, Repeat
from meanfield.weight_free.backend import Array, Backend

INTERPRETER = "weight_free.forward"
Rule: TypeAlias = Callable[..., Any]


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
class Run(ABC):
    """A pass: its layout, how its matrices act, its record; all arrays have a leading axis of seeds.

    Args:
        backend: Where arrays live.
        seeds: How many seeds run together.
        batch: Sequences.
        feed: What the present stack is fed with.
        prefix: Of the names of the present stack's modules.
    """

    backend: Backend
    seeds: int
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

    @abstractmethod
    def noise(self, name: str, *shape: int) -> Array:
        """Draw standard normals (seeds, *shape) for ``input0``, ``input1`` (of a decoder) or ``target``."""

    @abstractmethod
    def keep(self, rate: float, shape: tuple[int, ...]) -> Array:
        """Draw a dropout mask (seeds, *shape): 0 at a rate, else 1/(1 - rate)."""

    @abstractmethod
    def draw(self, module: str, parameter: str, law: Draw, *shape: int) -> Array:
        """Draw a parameter of the present layer, (seeds, *shape)."""

    @abstractmethod
    def rows(self, op: Embedding, ids: Array) -> Array:
        """Draw the rows of a table at ids (seeds or 1, N), (seeds, N, width); equal ids may get two rows."""

    @abstractmethod
    def span(self, x: Array) -> Any:
        """Prepare tokens that many maps read."""

    @abstractmethod
    def project(self, module: str, maps: dict[str, Linear], x: Any) -> tuple[dict[str, Array], Any]:
        """Apply linear maps of a module to the same tokens.

        Args:
            module: Name of the module.
            maps: Name -> map; the one called ``""`` bears the module's name.
            x: Token rows (seeds, T, d), or what `span` has made of them.

        Returns:
            Name -> mapped tokens (seeds, T, d_out), and what `project_back` needs.
        """

    @abstractmethod
    def project_back(self, module: str, saved: Any, gradients: dict[str, Array]) -> Array:
        """Note the gradients of weights and biases of a module's maps.

        Args:
            module: Name of the module.
            saved: From `project`.
            gradients: Name -> gradient of the mapped tokens (seeds, T, d_out).

        Returns:
            The gradient of the tokens (seeds, T, d_in).
        """

    @abstractmethod
    def logits(self, op: Head, x: Array) -> tuple[Array, Any]:
        """Apply the head's map, before its scale, and say what `logits_back` needs."""

    @abstractmethod
    def logits_back(self, op: Head, x: Array, saved: Any, g: Array) -> Array:
        """Note the gradients of the head's map, and give that of its tokens."""

    @property
    def columns(self) -> int:
        """How many columns `logits` puts before those of the classes."""
        return 0

    def repeat(self, op: Repeat, x: Array, forward: Rule) -> tuple[Array, Any]:
        """Run equal layers one after another, and keep what each needs on the way back."""
        kept = []
        for _ in range(op.times):
            self.layer += 1
            x, saved = forward(op.block, x, self)
            kept.append(saved)
        return x, kept

    def repeat_back(self, op: Repeat, kept: Any, g: Array, forward: Rule, backward: Rule) -> Array:
        """Run the layers back, the last one first."""
        for saved in reversed(kept):
            g = backward(op.block, saved, g, self)
            self.layer -= 1
        return g

    def bias(self, module: str, name: str, op: Linear) -> Array | None:
        """Draw the bias of a module's map, (seeds, 1, d_out); None where there is none, or it is zero."""
        if op.bias is None or not (op.bias.variance or op.bias.mean):
            return None
        return self.draw(part(module, name), "bias", op.bias, 1, op.d_out)

    def note_map(self, module: str, name: str, op: Linear, g: Array, square: Array) -> None:
        """Note the gradients of the bias of a module's map, from that of its output, and of its weight."""
        if op.bias is not None:
            self.add(part(module, name), "bias", self.backend.squared(self.xp.sum(g, axis=1)))
        self.add(part(module, name), "weight", square)

    def look_up(self, op: Embedding, ids: Array) -> Rows:
        """Look up the rows of ids (seeds or 1, N), one for each id that occurs."""
        xp = self.xp
        same = ids[:, :, None] == ids[:, None, :]  # (seeds or 1, N, N)
        slot = xp.argmax(xp.astype(same, xp.int8), axis=-1)
        values = self.rows(op, ids)
        return Rows(op, ids, slot, values, xp.zeros_like(values))

    def add(self, module: str, parameter: str, square: Array, *, prefix: str | None = None) -> None:
        """Note ||dL/dtheta||^2, of shape (seeds,), for a parameter of the present layer."""
        key = ParameterKey(self.layer, (self.prefix if prefix is None else prefix) + module, parameter)
        once(key, self.squares)
        self.squares[key] = square


def part(module: str, name: str) -> str:
    """Name one map of a module; the one called ``""`` bears the module's name."""
    return f"{module}.{name}" if name else module

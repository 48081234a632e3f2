"""What a tensor of the pass means: an expression over whole token matrices, with parameters by name.

A term is a matrix of shape (rows, width), one row for each token of the batch. Tensors of the pass are
views of terms: an integer for every entry says where it stands in the term's matrix, ``row * width +
column``. Reshapes, slices and transposes act on these integers exactly as they act on the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from empirical.readers.trace import Node
from meanfield.ops import Rotary


@dataclass(frozen=True, eq=False, slots=True)
class Weight:
    """Entries of a parameter, scale * entry + offset, by their places in the flattened tensor."""

    name: str
    index: Tensor
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Term:
    """A matrix of token rows.

    Attributes:
        width: Number of columns.
        at: A node that holds it.
        layout: Where each entry of that node stands in the matrix.
    """

    width: int
    at: Node
    layout: Tensor

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return ()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Root(Term):
    """Vectors that enter: given ones, or what parameters make of constants."""

    made: Made


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Map(Term):
    """x W + b."""

    x: Term
    weight: Weight  # (d_in, d_out)
    bias: Weight | None = None

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.x,)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Take(Term):
    """Some columns of x."""

    x: Term
    columns: Tensor

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.x,)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Normed(Term):
    """LayerNorm or RMSNorm of groups of columns, all of them together as a rule; or their mean taken out."""

    x: Term
    kind: str  # "layernorm", "rmsnorm", or "centred": its mean taken out and no more
    eps: float
    groups: Tensor  # (groups, columns)
    gain: Weight | None = None
    shift: Weight | None = None

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.x,)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Activated(Term):
    """factor * activation(x)."""

    x: Term
    activation: str

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.x,)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Capped(Term):
    """c tanh(x / c)."""

    x: Term
    cap: float

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.x,)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Scaled(Term):
    """factor * x."""

    x: Term
    factor: float

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.x,)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Gained(Term):
    """x times a learned factor for each column."""

    x: Term
    gain: Weight

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.x,)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Product(Term):
    """a times b, entry by entry."""

    a: Term
    b: Term

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.a, self.b)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sum(Term):
    """Sum of factor * term."""

    parts: tuple[tuple[float, Term], ...]

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return tuple(part for _, part in self.parts)


@dataclass(frozen=True, eq=False, slots=True)
class Operand:
    """Queries, keys or values as a product reads them.

    Attributes:
        term: The projection, or its norm.
        rows: Row of the term for each (product, token).
        columns: Columns of the term for each (product, coordinate).
        scale: Factor on them.
        rotary: How they turn with their position, or None; coordinates are then in the order of halves.
    """

    term: Term
    rows: Tensor
    columns: Tensor
    scale: float
    rotary: Rotary | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Scores(Term):
    """Products of queries and keys: rows are (product, query), columns keys."""

    query: Operand
    key: Operand

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return (self.query.term, self.key.term)


@dataclass(frozen=True, eq=False, slots=True)
class Bias:
    """A learned table of relative positions."""

    weight: Weight  # (buckets, heads)
    max_distance: int
    bidirectional: bool


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Probabilities(Term):
    """Softmax of scaled and masked scores."""

    scores: Scores
    scale: float
    softcap: float | None
    visible: Tensor  # (products, queries, keys)
    bias: Bias | None
    slopes: Tensor | None  # (products,), of a term slope * (key - query)

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        return self.scores.sources


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Mixed(Term):
    """Attention before its output projection: (rows, heads * value size)."""

    probabilities: Probabilities
    value: Operand
    heads: Heads

    @property
    def sources(self) -> tuple[Term, ...]:
        """The terms that it is made of."""
        scores = self.probabilities.scores
        return tuple(read_by(operand.term) for operand in (scores.query, scores.key, self.value))


@dataclass(frozen=True, eq=False, slots=True)
class Heads:
    """How the products of an attention are heads and sequences.

    Attributes:
        queries: Rows of the query tokens (batch, tokens).
        keys: Rows of the key tokens (batch, source tokens).
        query: Columns of queries (heads, head size).
        key: Columns of keys (kv_heads, head size).
        value: Columns of values (kv_heads, value size).
        visible: Which keys a query sees, (batch, tokens, source tokens).
        slopes: ALiBi's slopes, one for each head, or None.
    """

    queries: Tensor
    keys: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor
    slopes: tuple[float, ...] | None


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Entries of a parameter laid out as a tensor: scale * parameter[index], nothing where index is -1."""

    name: str
    index: Tensor
    scale: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """Constant features times a parameter: sum_k features[row, k] parameter[weight[k, column]]."""

    name: str
    features: Tensor  # (rows, k)
    weight: Tensor  # (k, columns)
    row: Tensor
    column: Tensor
    scale: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Made:
    """What parameters and constants make linearly: a value before any token meets another.

    Attributes:
        parts: The parameters.
        constant: What is added; None for 0.
        shape: Of the tensor.
        tokens: Whether it is looked up, put together or given, not a parameter as it stands.
        origin: The node where it was made; other nodes are views of it. None for the node itself.
        place: Where each entry stands in the flattened origin.
    """

    parts: tuple[Rows | Features, ...]
    constant: Tensor | None
    shape: tuple[int, ...]
    tokens: bool = False
    origin: Node | None = None
    place: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """A tensor made of a term's entries: scale * term[index]."""

    term: Term
    index: Tensor
    scale: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Opaque:
    """A function of a few terms whose meaning is not known yet; it can be found out by trying.

    Attributes:
        at: The operation that made it.
        entries: The views that it is made of.
        index: Where it is a function of one view's entries, each for itself: those entries.
        reduced: Whether sums over coordinates went in.
        tables: Nodes of parameters that went in.
    """

    at: Node
    entries: tuple[View, ...]
    index: Tensor | None = None
    reduced: bool = False
    tables: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Unknown:
    """What is not understood: where, and why."""

    module: str
    why: str


Value = Made | View | Opaque | Unknown


def read_by(term: Term) -> Term:
    """What a projection, or its norm, reads.

    Args:
        term: Queries, keys or values of all heads.

    Returns:
        The tokens that they are made of.
    """
    while isinstance(term, Normed):
        term = term.x
    return term.sources[0] if term.sources else term


def arrange(rows: Tensor, width: int) -> Tensor:
    """Index of whole rows: (*rows.shape, width)."""
    return rows[..., None] * width + torch.arange(width)


def scalar(value: Any) -> float | None:
    """The number that an argument is: a number, or a constant tensor of equal entries.

    Args:
        value: An argument of an operation.

    Returns:
        The number, or None.
    """
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Node) and not value.variable and value.value.numel():
        flat = value.value.reshape(-1)
        if bool((flat == flat[0]).all()):
            return float(flat[0])
    return None


def of_scores(value: Value) -> bool:
    """Whether a value is made of products of queries and keys."""
    views = value.entries if isinstance(value, Opaque) else (value,) if isinstance(value, View) else ()
    return any(isinstance(view.term, Scores | Probabilities) for view in views)


def take(term: Term, columns: Tensor) -> Term:
    """Take columns of a term; those of a linear map are a linear map.

    Args:
        term: The term.
        columns: Their numbers.

    Returns:
        The term itself where they are all of them in order.
    """
    if len(columns) == term.width and torch.equal(columns, torch.arange(term.width)):
        return term
    count = len(columns)
    if isinstance(term, Map):
        weight = replace(term.weight, index=term.weight.index[:, columns])
        bias = None if term.bias is None else replace(term.bias, index=term.bias.index[columns])
        return Map(width=count, at=term.at, layout=term.layout, x=term.x, weight=weight, bias=bias)
    return Take(width=count, at=term.at, layout=term.layout, x=term, columns=columns)

"""The architecture as a value: small frozen ops that three interpreters read.

Numbers (`meanfield.moments`), symbols (`meanfield.symbolic`) and tensors (`empirical.build`) each give every
op here one rule. An op holds what the architecture says and nothing that an interpreter computes. Names of
ops become the ``module`` column of every table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Literal, NamedTuple, TypeAlias

from meanfield.errors import InputError, UnknownNameError, positive_integer

Number: TypeAlias = Fraction | float | int
Law: TypeAlias = Literal["normal", "uniform"]
NormKind: TypeAlias = Literal["layernorm", "rmsnorm"]
AttentionKind: TypeAlias = Literal["softmax", "uniform"]

ACTIVATIONS = ("gelu", "relu")


def _finite(what: str, value: Number) -> None:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{what}={value!r} is not finite: give a real number")


@dataclass(frozen=True, slots=True)
class Draw:
    """The law from which the independent entries of a tensor are drawn.

    Args:
        variance: Variance of an entry; exact fractions stay exact in the symbolic reading. 0 means constant.
        law: The shape of the distribution. Mean-field theory sees the variance alone.
        mean: Mean of an entry.

    Raises:
        InputError: If the variance is negative, or a number is not finite.

    Example:
        >>> Draw(Fraction(1, 512)).variance
        Fraction(1, 512)
    """

    variance: Number
    law: Law = "normal"
    mean: Number = 0

    def __post_init__(self) -> None:
        _finite("variance", self.variance)
        _finite("mean", self.mean)
        if self.variance < 0:
            raise InputError(f"variance={self.variance} is negative: give a variance of at least 0")
        if self.law not in ("normal", "uniform"):
            raise UnknownNameError("law", self.law, ("normal", "uniform"))


ZEROS = Draw(0)
ONES = Draw(0, mean=1)


@dataclass(frozen=True, slots=True)
class Op:
    """Base of all ops; interpreters dispatch on the concrete type."""


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """The map x -> x W + b on every token.

    Args:
        d_in: Size of a token before the map.
        d_out: Size of a token after the map.
        weight: Law of W, of shape (d_in, d_out).
        bias: Law of b, or None for no bias.

    Example:
        >>> Linear(512, 512, Draw(Fraction(1, 512))).sigma_w_sq
        Fraction(1, 1)
    """

    d_in: int
    d_out: int
    weight: Draw
    bias: Draw | None = None

    def __post_init__(self) -> None:
        positive_integer("d_in", self.d_in)
        positive_integer("d_out", self.d_out)

    @property
    def sigma_w_sq(self) -> Number:
        """Variance of an entry times the fan-in: what the forward pass multiplies a second moment by."""
        return self.d_in * self.weight.variance

    @property
    def sigma_b_sq(self) -> Number:
        """Second moment of a bias entry; 0 where there is no bias."""
        return 0 if self.bias is None else self.bias.variance + self.bias.mean * self.bias.mean


@dataclass(frozen=True, slots=True)
class Norm(Op):
    """LayerNorm or RMSNorm over the coordinates of a token, with gain and shift.

    Args:
        name: Module name in tables, for example ``"norm1"``.
        width: Size of a token.
        kind: ``"layernorm"`` subtracts the mean over coordinates first, ``"rmsnorm"`` does not.
        eps: Added to the mean square before the root is taken.

    Raises:
        InputError: If eps is negative or the kind is unknown.
    """

    name: str
    width: int
    kind: NormKind = "layernorm"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        positive_integer("width", self.width)
        _finite("eps", self.eps)
        if self.eps < 0:
            raise InputError(f"eps={self.eps} is negative: give an eps of at least 0")
        if self.kind not in ("layernorm", "rmsnorm"):
            raise UnknownNameError("norm", self.kind, ("layernorm", "rmsnorm"))

    @property
    def has_shift(self) -> bool:
        """Whether the norm has a learned shift; RMSNorm has none."""
        return self.kind == "layernorm"


@dataclass(frozen=True, slots=True)
class Attention(Op):
    """Multi-head attention over the tokens of a sequence.

    ``kind="uniform"`` is the paper's simplification W_Q = W_K = 0: every token receives the mean of all
    values. It has no query and key, and no output projection unless one is given.

    Args:
        name: Module name in tables, ``"attention"`` or ``"cross_attention"``.
        kind: ``"softmax"`` or ``"uniform"``.
        heads: Number of query heads.
        kv_heads: Number of key and value heads, a divisor of ``heads``.
        value: Value projection.
        query: Query projection; None for uniform attention.
        key: Key projection; None for uniform attention.
        output: Output projection; None for none.
        score_scale: Factor on the scores q . k, usually 1/sqrt(head size).
        causal: Whether a token sees only itself and earlier ones.
        cross: Whether keys and values come from the encoder's output.

    Raises:
        InputError: If sizes do not fit together or the kind is unknown.
    """

    name: str
    kind: AttentionKind
    heads: int
    kv_heads: int
    value: Linear
    query: Linear | None = None
    key: Linear | None = None
    output: Linear | None = None
    score_scale: Number = 1
    causal: bool = False
    cross: bool = False

    def __post_init__(self) -> None:
        positive_integer("heads", self.heads)
        positive_integer("kv_heads", self.kv_heads)
        _finite("score_scale", self.score_scale)
        if self.heads % self.kv_heads:
            raise InputError(
                f"heads={self.heads} is not divisible by kv_heads={self.kv_heads}: give a divisor"
            )
        if self.kind not in ("softmax", "uniform"):
            raise UnknownNameError("attention", self.kind, ("softmax", "uniform"))
        if self.kind == "softmax" and (self.query is None or self.key is None):
            raise InputError(
                "attention='softmax' needs query and key projections: give both, or use 'uniform'"
            )
        if self.kind == "uniform" and (self.query is not None or self.key is not None):
            raise InputError(
                "attention='uniform' has neither query nor key: leave them out, or use 'softmax'"
            )
        if self.value.d_out % self.kv_heads:
            raise InputError(
                f"value size {self.value.d_out} is not divisible by kv_heads={self.kv_heads}: give a multiple"
            )


@dataclass(frozen=True, slots=True)
class FeedForward(Op):
    """The position-wise network x -> down(activation(up(x))).

    Args:
        name: Module name in tables, ``"ffn"``.
        up: First linear map.
        activation: Name of the non-linearity, one of `ACTIVATIONS`.
        down: Second linear map.

    Raises:
        InputError: If the sizes do not fit together or the activation is unknown.
    """

    name: str
    up: Linear
    activation: str
    down: Linear

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UnknownNameError("activation", self.activation, ACTIVATIONS)
        if self.up.d_out != self.down.d_in:
            raise InputError(
                f"up gives {self.up.d_out} features and down takes {self.down.d_in}: make them equal"
            )


@dataclass(frozen=True, slots=True)
class Residual(Op):
    """The sum skip_scale * x + branch_scale * branch(x).

    Args:
        name: Module name of the sum in tables, for example ``"residual1"``.
        branch: The op beside the skip connection.
        skip_scale: Factor on x.
        branch_scale: Factor on branch(x).
    """

    name: str
    branch: Op
    skip_scale: Number = 1
    branch_scale: Number = 1

    def __post_init__(self) -> None:
        _finite("skip_scale", self.skip_scale)
        _finite("branch_scale", self.branch_scale)


@dataclass(frozen=True, slots=True)
class Sequential(Op):
    """Ops applied one after another, the first one first."""

    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Repeat(Op):
    """A block applied several times, each time with weights of its own: a run of equal layers.

    Args:
        block: The op of one layer.
        times: Number of layers, at least 1.
    """

    block: Sequential
    times: int

    def __post_init__(self) -> None:
        positive_integer("depth", self.times)


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
        _finite("embedding_scale", self.scale)


@dataclass(frozen=True, slots=True)
class Head(Op):
    """The untied output head: logits x W over a vocabulary.

    Args:
        name: Module name in tables, ``"head"``.
        linear: The map from width to vocabulary.
    """

    name: str
    linear: Linear


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
        final_norm: Norm after the last layer, or None.
        embedding: Token embedding, or None when the input is vectors.
        head: Output head, or None.
    """

    name: str
    placement: str
    init: str
    layers: tuple[Repeat, ...]
    final_norm: Norm | None = None
    embedding: Embedding | None = None
    head: Head | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("a Transformer without layers: give at least one Repeat")

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
        return self.feed_forward.up.d_in

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

    Both stacks embed their own tokens; the decoder carries the head.

    Args:
        name: Preset name, the ``arch`` column.
        encoder: The encoder stack, with an embedding.
        decoder: The decoder stack, with cross-attention, embedding and head.
    """

    name: str
    encoder: Transformer
    decoder: Transformer


def children(op: Op) -> tuple[Op, ...]:
    """List the ops directly inside an op, in the order of computation.

    Args:
        op: Any op.

    Returns:
        Its children; empty for a leaf.
    """
    match op:
        case Sequential(ops=ops):
            return ops
        case Repeat(block=block):
            return (block,)
        case Residual(branch=branch):
            return (branch,)
        case Attention():
            return tuple(part for part in (op.query, op.key, op.value, op.output) if part is not None)
        case FeedForward():
            return (op.up, op.down)
        case Head():
            return (op.linear,)
        case _:
            return ()


def walk(op: Op) -> Iterator[Op]:
    """Yield an op and every op inside it, outermost first."""
    yield op
    for child in children(op):
        yield from walk(child)

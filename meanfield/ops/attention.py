"""Attention as a value: projections, heads, mask, positions and what acts on queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from meanfield.errors import InputError, UnknownNameError, positive_integer
from meanfield.ops.base import Draw, Number, Op, finite
from meanfield.ops.token_maps import Linear, Norm, check_rate

AttentionKind: TypeAlias = Literal["softmax", "uniform"]


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions: plane m of r/2 turns a query or key at position t by the angle t base^(-2m/r).

    Args:
        fraction: Share of the head's coordinates that turn; the others stay.
        base: Base of the wavelengths.

    Raises:
        InputError: If the fraction is outside (0, 1] or the base is not above 0.
    """

    fraction: Number = 1
    base: Number = 10_000

    def __post_init__(self) -> None:
        finite("rotary fraction", self.fraction)
        finite("rotary base", self.base)
        if not 0 < self.fraction <= 1 or self.base <= 0:
            raise InputError(
                f"rotary fraction={self.fraction}, base={self.base}: give a fraction in (0, 1] and a base "
                "above 0"
            )


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """T5's learned term b[bucket(j - i), head], added to the scores.

    Distances up to half of the buckets of a direction have one each; farther ones share buckets of
    logarithmic size up to ``max_distance``.

    Args:
        name: Module name in tables, for example ``"attention.relative_bias"``.
        weight: Law of the entries, of shape (buckets, heads).
        buckets: Number of buckets.
        max_distance: Distance from which all share the last bucket.
        bidirectional: Whether later keys have buckets of their own; otherwise they share that of distance 0.
        shared: Whether the table is that of an earlier layer with the same name, not one more.
    """

    name: str
    weight: Draw
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        positive_integer("buckets", self.buckets)
        positive_integer("max_distance", self.max_distance)
        fewest = 4 if self.bidirectional else 2
        if self.buckets < fewest or self.max_distance <= self.buckets // (4 if self.bidirectional else 2):
            raise InputError(
                f"buckets={self.buckets}, max_distance={self.max_distance}: give at least {fewest} buckets, "
                "and a distance beyond those with a bucket of their own"
            )


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
        window: A token sees only those less than this many positions away; None for all.
        query_norm: Norm on queries, of one head (width = head size) or of all heads together; None for none.
        key_norm: The same on keys.
        value_norm: The same on values.
        rotary: Rotary positions on queries and keys, or None.
        relative_bias: T5's relative positions, or None.
        alibi: One slope m per query head: m times the distance of query and key is subtracted from their
            score; None for none.
        softcap: c in c tanh(score / c), or None.
        dropout: Rate at which weights are dropped after the softmax.
        inner: What acts on the mixed values before the output projection (a norm, a gain), or None.

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
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    value_norm: Norm | None = None
    rotary: Rotary | None = None
    relative_bias: RelativeBias | None = None
    alibi: tuple[Number, ...] | None = None
    softcap: Number | None = None
    dropout: Number = 0
    inner: Op | None = None

    def __post_init__(self) -> None:
        positive_integer("heads", self.heads)
        positive_integer("kv_heads", self.kv_heads)
        finite("score_scale", self.score_scale)
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
        check_rate("attention dropout", self.dropout)
        if self.window is not None:
            positive_integer("window", self.window)
        if self.softcap is not None:
            finite("softcap", self.softcap)
            if self.softcap <= 0:
                raise InputError(f"softcap={self.softcap} is not above 0: give a positive number, or None")
        self._check_alibi()
        positions = self.rotary or self.relative_bias or self.alibi
        if self.cross and (self.causal or self.window is not None or positions):
            raise InputError(
                "cross-attention has no mask and no positions between source and target: leave out causal, "
                "window, rotary, relative_bias and alibi"
            )
        self._check_norms()

    def _check_alibi(self) -> None:
        if self.alibi is None:
            return
        for slope in self.alibi:
            finite("alibi slope", slope)
        if len(self.alibi) != self.heads:
            raise InputError(f"alibi has {len(self.alibi)} slopes for {self.heads} heads: give one for each")
        if self.kind == "uniform" or self.rotary is not None:
            raise InputError(
                "alibi goes with softmax attention without rotary positions: leave one of them out"
            )

    def _check_norms(self) -> None:
        if self.kind == "uniform" and (self.query_norm or self.key_norm or self.rotary):
            raise InputError("attention='uniform' has no query and key to norm or to turn: use 'softmax'")
        parts = (("query_norm", self.query), ("key_norm", self.key), ("value_norm", self.value))
        for which, linear in parts:
            norm = getattr(self, which)
            heads = self.heads if which == "query_norm" else self.kv_heads
            if norm is not None and linear is not None and norm.width * heads != linear.d_out != norm.width:
                raise InputError(
                    f"{which} has width {norm.width}: give the head size {linear.d_out // heads}, or "
                    f"{linear.d_out} for all heads together"
                )

    @property
    def head_size(self) -> int:
        """Coordinates of a query head; of a value head where there is no query."""
        return self.value.d_out // self.kv_heads if self.query is None else self.query.d_out // self.heads

    @property
    def masked(self) -> bool:
        """Whether some keys are hidden from some queries by their positions."""
        return self.causal or self.window is not None

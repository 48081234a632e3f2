"""Attention: projections, norms and positions of queries and keys, scores, mask, mixed values."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from empirical.layers.base import ALONE, Context
from empirical.layers.token_maps import Dropout, Linear, Norm
from meanfield import ops
from meanfield.errors import InputError


class Attention(nn.Module):
    """Multi-head attention; ``uniform`` is W_Q = W_K = 0, so that every score is zero."""

    def __init__(self, op: ops.Attention, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.name = op.name
        self.heads, self.kv_heads, self.cross = op.heads, op.kv_heads, op.cross
        self.causal, self.window = op.causal, op.window
        self.score_scale = float(op.score_scale)
        self.softcap = None if op.softcap is None else float(op.softcap)
        self.q = Linear(op.query, f"{op.name}.q") if op.query is not None else None
        self.k = Linear(op.key, f"{op.name}.k") if op.key is not None else None
        self.v = Linear(op.value, f"{op.name}.v")
        self.q_norm, self.k_norm, self.v_norm = (
            None if norm is None else Norm(norm) for norm in (op.query_norm, op.key_norm, op.value_norm)
        )
        self.rotary = Rotary(op.rotary, op.head_size) if op.rotary is not None else None
        bias = op.relative_bias
        self.relative_bias = RelativeBias(bias, op.heads) if bias is not None else None
        slopes = None if op.alibi is None else [float(slope) for slope in op.alibi]
        self.alibi = None if slopes is None else torch.tensor(slopes, dtype=torch.float64)  # (heads,)
        self.dropout = Dropout(op.dropout) if op.dropout else None
        self.inner = inner
        self.o = Linear(op.output, f"{op.name}.o") if op.output is not None else None

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Mix the values of the sequence, or of the memory where the op is cross-attention."""
        source = context.memory if self.cross else x  # (batch, source tokens, width)
        if source is None:
            raise InputError(
                f"{self.name} is cross-attention and got no memory: call it with the encoder's output"
            )
        s = self.scores(x, source)  # (batch or 1, heads or 1, tokens, source tokens)
        padding = context.memory_padding if self.cross else context.padding
        if self.causal or self.window is not None or padding is not None:
            s = s.masked_fill(~self.visible(s, padding), float("-inf"))
        weights = s.softmax(-1)
        if self.dropout is not None:
            weights = self.dropout(weights.expand(len(x), self.heads, -1, -1))
        v = _normed(
            self.v_norm, self.v(source), self.kv_heads
        )  # (batch, source tokens, kv_heads * head size)
        y = weights @ self.per_head(v)  # (batch, heads, tokens, head size)
        y = y.transpose(1, 2).flatten(2)  # (batch, tokens, heads * head size)
        y = y if self.inner is None else self.inner(y, context)
        return y if self.o is None else self.o(y)

    def scores(self, x: Tensor, source: Tensor) -> Tensor:
        """Scores before mask and softmax."""
        if self.q is None or self.k is None:
            s = x.new_zeros(1, 1, x.shape[1], source.shape[1])  # (1, 1, tokens, source tokens)
        else:
            q = _split(_normed(self.q_norm, self.q(x), self.heads), self.heads)
            k = self.per_head(_normed(self.k_norm, self.k(source), self.kv_heads))
            if self.rotary is not None:
                q, k = self.rotary(q), self.rotary(k)  # (batch, heads, tokens, head size)
            s = self.score_scale * (q @ k.transpose(-1, -2))  # (batch, heads, tokens, source tokens)
        if self.relative_bias is not None:
            s = s + self.relative_bias(
                x.shape[1], source.shape[1]
            )  # (batch or 1, heads, tokens, source tokens)
        if self.alibi is not None:
            distance = _offsets(x.shape[1], source.shape[1], s).abs().to(s)  # (tokens, source tokens)
            s = s - self.alibi.to(s)[:, None, None] * distance
        return s if self.softcap is None else self.softcap * torch.tanh(s / self.softcap)

    def visible(self, s: Tensor, padding: Tensor | None) -> Tensor:
        """Tell which keys each query sees, (tokens, source tokens) or (batch, 1, tokens, source tokens)."""
        offset = _offsets(s.shape[-2], s.shape[-1], s)
        seen = torch.ones_like(offset, dtype=torch.bool)
        if self.causal:
            seen = seen & (offset <= 0)
        if self.window is not None:
            seen = seen & (offset.abs() < self.window)
        if padding is None:
            return seen
        real = padding[:, None, None, :]  # (batch, 1, 1, source tokens)
        # A padded token sees itself at least: nobody reads its output, and it has to be a number.
        return seen & (real if self.cross else real | (offset == 0))

    def per_head(self, kv: Tensor) -> Tensor:
        """Split keys or values into heads, each shared by heads / kv_heads query heads."""
        kv = _split(kv, self.kv_heads)  # (batch, kv_heads, source tokens, head size)
        if self.heads == self.kv_heads:
            return kv
        return kv.repeat_interleave(
            self.heads // self.kv_heads, dim=1
        )  # (batch, heads, source tokens, head size)


def _split(x: Tensor, heads: int) -> Tensor:
    size = x.shape[-1] // heads  # said, for there may be no row to tell it from
    return x.reshape(*x.shape[:2], heads, size).transpose(1, 2)  # (batch, heads, tokens, head size)


def _normed(norm: Norm | None, x: Tensor, heads: int) -> Tensor:
    """Apply a norm as wide as x to all heads together, a narrower one to each head."""
    if norm is None:
        return x
    if norm.width == x.shape[-1]:
        return norm(x)  # (batch, tokens, heads * head size)
    return norm(x.reshape(*x.shape[:2], heads, -1)).flatten(2)


def _offsets(tokens: int, sources: int, like: Tensor) -> Tensor:
    """Positions of keys minus those of queries, j - i, (tokens, source tokens), where another tensor is."""
    return torch.arange(sources, device=like.device) - torch.arange(tokens, device=like.device)[:, None]


class Rotary(nn.Module):
    """Rotary positions: coordinates m and m + r/2 of a head turn by the angle t base^(-2m/r)."""

    def __init__(self, op: ops.Rotary, head_size: int) -> None:
        super().__init__()
        size = int(op.fraction * head_size)
        if size < 2 or size % 2:
            raise InputError(
                f"rotary fraction={op.fraction} turns {size} of {head_size} coordinates of a head: give a "
                "fraction that makes their number even"
            )
        self.planes = size // 2
        self.frequencies = float(op.base) ** (-torch.arange(self.planes, dtype=torch.float64) / self.planes)

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys, (batch, heads, tokens, head size)."""
        angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * self.frequencies
        cos, sin = angles.cos().to(x), angles.sin().to(x)  # (tokens, planes)
        a, b, rest = x[..., : self.planes], x[..., self.planes : 2 * self.planes], x[..., 2 * self.planes :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class RelativeBias(nn.Module):
    """T5's table of score terms, (buckets, heads), one of which depends on bucket(j - i)."""

    def __init__(self, op: ops.RelativeBias, heads: int) -> None:
        super().__init__()
        self.op, self.name, self.shared = op, op.name, op.shared
        self.laws = {"weight": op.weight}
        self.weight = nn.Parameter(torch.zeros(op.buckets, heads))

    def forward(self, tokens: int, sources: int) -> Tensor:
        """Look up the term of every pair of tokens."""
        buckets = relative_buckets(_offsets(tokens, sources, self.weight), self.op)
        return F.embedding(buckets, self.weight).permute(2, 0, 1)  # (heads, tokens, source tokens)


def relative_buckets(offset: Tensor, op: ops.RelativeBias) -> Tensor:
    """Sort distances into T5's buckets.

    Half of a direction's buckets hold one distance each; distance r beyond them is in bucket
    e + (B - e) log(r/e) / log(max_distance/e), rounded down, at most B - 1; e = B/2.

    Args:
        offset: Position of the key minus that of the query.
        op: Says how many buckets there are.

    Returns:
        Indices of buckets, of the shape of `offset`.

    Source:
        raffel2020, Sec. 2.1, as in its published code.

    Example:
        >>> relative_buckets(torch.tensor([-9, -1, 0, 1]), ops.RelativeBias("bias", ops.ZEROS, 8, 16))
        tensor([3, 1, 0, 5])
    """
    directions = 2 if op.bidirectional else 1
    count = op.buckets // directions
    exact = count // 2
    distance = offset.abs() if op.bidirectional else (-offset).clamp(min=0)
    share = torch.log(distance.clamp(min=1).float() / exact) / math.log(op.max_distance / exact)
    far = (exact + (share * (count - exact)).long()).clamp(max=count - 1)
    bucket = torch.where(distance < exact, distance, far)
    return bucket + count * (offset > 0) if op.bidirectional else bucket

"""The modules of a Transformer, read top to bottom: linear map, norm, attention, feed-forward, block, model.

Row vectors: a token is a row x, and a linear map with W of shape (d_in, d_out) is x W. Modules hold zeros
until their parameters are drawn; ``laws`` says from which law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from meanfield import ops
from meanfield.errors import InputError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class Linear(nn.Module):
    """The map x W + b."""

    def __init__(self, op: ops.Linear) -> None:
        super().__init__()
        self.laws = {"weight": op.weight} | ({"bias": op.bias} if op.bias is not None else {})
        self.weight = nn.Parameter(torch.zeros(op.d_in, op.d_out))
        self.bias = nn.Parameter(torch.zeros(op.d_out)) if op.bias is not None else None

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Map the last axis, d_in -> d_out; `memory` is not read."""
        y = x @ self.weight  # (batch, tokens, d_out)
        return y if self.bias is None else y + self.bias


class Norm(nn.Module):
    """LayerNorm or RMSNorm with gain (``weight``) and, for LayerNorm, shift (``bias``)."""

    def __init__(self, op: ops.Norm) -> None:
        super().__init__()
        self.name, self.eps = op.name, op.eps
        self.laws = {"weight": ops.ONES} | ({"bias": ops.ZEROS} if op.has_shift else {})
        self.weight = nn.Parameter(torch.ones(op.width))
        self.bias = nn.Parameter(torch.zeros(op.width)) if op.has_shift else None

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Normalise every token; `memory` is not read."""
        if self.bias is not None:
            return F.layer_norm(
                x, self.weight.shape, self.weight, self.bias, self.eps
            )  # (batch, tokens, width)
        mean_square = x.square().mean(-1, keepdim=True)  # (batch, tokens, 1)
        return x * torch.rsqrt(mean_square + self.eps) * self.weight  # (batch, tokens, width)


class Attention(nn.Module):
    """Multi-head attention; ``uniform`` is W_Q = W_K = 0, so that every score is zero."""

    def __init__(self, op: ops.Attention) -> None:
        super().__init__()
        self.name = op.name
        self.heads, self.kv_heads, self.causal, self.cross = op.heads, op.kv_heads, op.causal, op.cross
        self.score_scale = float(op.score_scale)
        self.q = Linear(op.query) if op.query is not None else None
        self.k = Linear(op.key) if op.key is not None else None
        self.v = Linear(op.value)
        self.o = Linear(op.output) if op.output is not None else None

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Mix the values of the sequence, or of `memory` where the op is cross-attention."""
        source = memory if self.cross else x  # (batch, source tokens, width)
        if source is None:
            raise InputError(
                f"{self.name} is cross-attention and got no memory: call it with the encoder's output"
            )
        weights = self.scores(x, source).softmax(-1)  # (batch, heads or 1, tokens, source tokens)
        y = weights @ self.per_head(self.v(source))  # (batch, heads, tokens, head size)
        y = y.transpose(1, 2).flatten(2)  # (batch, tokens, heads * head size)
        return y if self.o is None else self.o(y)

    def scores(self, x: Tensor, source: Tensor) -> Tensor:
        """Scores before the softmax, -inf where a causal token must not look."""
        if self.q is None or self.k is None:
            s = x.new_zeros(1, 1, x.shape[1], source.shape[1])  # (1, 1, tokens, source tokens)
        else:
            q = _split(self.q(x), self.heads)  # (batch, heads, tokens, head size)
            k = self.per_head(self.k(source))  # (batch, heads, source tokens, head size)
            s = self.score_scale * (q @ k.transpose(-1, -2))  # (batch, heads, tokens, source tokens)
        if not self.causal:
            return s
        later = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(1)  # (tokens, source tokens)
        return s.masked_fill(later, float("-inf"))

    def per_head(self, kv: Tensor) -> Tensor:
        """Split keys or values into heads, each shared by heads / kv_heads query heads."""
        kv = _split(kv, self.kv_heads)  # (batch, kv_heads, source tokens, head size)
        return kv.repeat_interleave(
            self.heads // self.kv_heads, dim=1
        )  # (batch, heads, source tokens, head size)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)  # (batch, heads, tokens, head size)


class FeedForward(nn.Module):
    """The position-wise network down(activation(up(x)))."""

    def __init__(self, op: ops.FeedForward) -> None:
        super().__init__()
        self.name = op.name
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[op.activation]
        self.up = Linear(op.up)
        self.down = Linear(op.down)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Apply the network to every token; `memory` is not read."""
        return self.down(self.activation(self.up(x)))  # (batch, tokens, width)


class Residual(nn.Module):
    """A branch beside its skip connection."""

    def __init__(self, op: ops.Residual, branch: nn.Module) -> None:
        super().__init__()
        self.name = op.name
        self.skip_scale, self.branch_scale = float(op.skip_scale), float(op.branch_scale)
        self.branch = branch

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Add the branch to the skip connection."""
        return self.skip_scale * x + self.branch_scale * self.branch(x, memory)  # (batch, tokens, width)


class Sequential(nn.Module):
    """Modules one after another; a layer is one of these."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Apply the modules in order."""
        for part in self.parts:
            x = part(x, memory)  # (batch, tokens, width)
        return x


class Embedding(nn.Module):
    """Rows of a table, times a scale."""

    def __init__(self, op: ops.Embedding) -> None:
        super().__init__()
        self.scale = float(op.scale)
        self.laws = {"weight": op.weight}
        self.weight = nn.Parameter(torch.zeros(op.vocab, op.width))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up (batch, tokens) integers."""
        return self.scale * F.embedding(ids, self.weight)  # (batch, tokens, width)


DRAWN = (Linear, Norm, Embedding)
"""Modules that own parameters, each with its ``laws``."""

NAMED = (Norm, Attention, FeedForward, Residual)
"""Modules of a layer that bear the name of their op."""


class Transformer(nn.Module):
    """A stack of layers on ids (batch, tokens), or on vectors where there is no embedding."""

    def __init__(
        self,
        embedding: nn.Module | None,
        blocks: Iterable[nn.Module],
        final_norm: nn.Module | None,
        head: nn.Module | None,
    ) -> None:
        super().__init__()
        self.embedding = embedding or nn.Identity()
        self.layers = nn.ModuleList(blocks)
        self.final_norm = final_norm or nn.Identity()
        self.head = head or nn.Identity()

    def hidden(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Everything below the head."""
        x = self.embedding(x)  # (batch, tokens, width)
        for layer in self.layers:
            x = layer(x, memory)  # (batch, tokens, width)
        return self.final_norm(x)  # (batch, tokens, width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Logits, or the last hidden state where there is no head."""
        return self.head(self.hidden(x, memory))  # (batch, tokens, vocab or width)


class EncoderDecoder(nn.Module):
    """The sequence-to-sequence model: ids of the source and, teacher-forced, of the target."""

    def __init__(self, encoder: Transformer, decoder: Transformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def head(self) -> nn.Module:
        """The decoder's head."""
        return self.decoder.head

    def hidden(self, source: Tensor, target: Tensor) -> Tensor:
        """Everything below the decoder's head."""
        return self.decoder.hidden(target, self.encoder.hidden(source))  # (batch, target tokens, width)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits at every target position."""
        return self.head(self.hidden(source, target))  # (batch, target tokens, vocab)

"""Models written by hand around `torch.nn.MultiheadAttention`, as in many a private repository."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HandWritten(nn.Module):
    """A Pre-LN encoder of packed self-attention.

    Args:
        width: Size of a token.
        depth: Layers.
        heads: Attention heads.
        d_ff: Inner size of the feed-forward sub-layer.
    """

    def __init__(self, width: int, depth: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(HandWrittenBlock(width, heads, d_ff) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return hidden states of (batch, tokens, width)."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class HandWrittenBlock(nn.Module):
    """x + A(N x), then x + F(N x)."""

    def __init__(self, width: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(width, d_ff), nn.GELU(), nn.Linear(d_ff, width))
        self.norm_a, self.norm_f = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, tokens, width)."""
        y = self.norm_a(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.feed_forward(self.norm_f(x))


class CrossBlocks(nn.Module):
    """A Pre-LN stack whose cross-attention reads a memory of another width: unpacked projections.

    Args:
        width: Size of a token.
        memory_width: Size of a memory vector.
        depth: Layers.
        heads: Attention heads.
        d_ff: Inner size of the feed-forward sub-layer.
    """

    def __init__(self, width: int, memory_width: int, depth: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(HandWrittenBlock(width, heads, d_ff) for _ in range(depth))
        self.cross = nn.ModuleList(
            nn.MultiheadAttention(width, heads, kdim=memory_width, vdim=memory_width, batch_first=True)
            for _ in range(depth)
        )
        self.cross_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return hidden states of (batch, tokens, width)."""
        for block, cross, norm in zip(self.blocks, self.cross, self.cross_norms, strict=True):
            x = x + cross(norm(x), memory, memory, need_weights=False)[0]
            x = block(x)
        return self.norm(x)


class SequenceFirst(nn.Module):
    """A Post-LN encoder that lays tokens out first and asks for attention weights: torch's defaults.

    Args:
        width: Size of a token.
        depth: Layers.
        heads: Attention heads.
        d_ff: Inner size of the feed-forward sub-layer.
    """

    def __init__(self, width: int, depth: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, heads, bias=False) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, d_ff) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(d_ff, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))

    def forward(self, x: Tensor) -> Tensor:
        """Return hidden states of (batch, tokens, width)."""
        x = x.transpose(0, 1)  # (tokens, batch, width)
        for layer, attention in enumerate(self.attentions):
            x = self.norms[2 * layer](x + attention(x, x, x)[0])
            x = self.norms[2 * layer + 1](x + self.down[layer](torch.relu(self.up[layer](x))))
        return x.transpose(0, 1)


class LanguageModel(nn.Module):
    """Token embedding, an encoder of vectors, and a head.

    Args:
        encoder: Maps (batch, tokens, width) to the same.
        vocab: Rows of the embedding.
        width: Size of a token.
        tied: Whether the head is the embedding's table.
    """

    def __init__(self, encoder: nn.Module, vocab: int, width: int, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.encoder = encoder
        self.head = nn.Linear(width, vocab, bias=False)
        if tied:
            nn.init.normal_(self.embedding.weight, std=width**-0.5)
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits of (batch, tokens) integers."""
        return self.head(self.encoder(self.embedding(ids)))

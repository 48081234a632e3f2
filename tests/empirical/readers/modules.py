"""Hand-written Transformers whose architecture is known, and modules that no reader should accept."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

WIDTH, HEADS, HIDDEN, VOCAB = 32, 4, 48, 61
HEAD = WIDTH // HEADS


class RootMeanSquare(nn.Module):
    """RMSNorm by hand, times 1 + weight."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


class Heads(nn.Module):
    """Attention with a fused projection whose columns are sorted by head, then by query, key, value."""

    def __init__(
        self,
        *,
        causal: bool = True,
        cap: float | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.fused = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.causal, self.cap, self.change = causal, cap, change

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.fused(x).view(batch, tokens, HEADS, 3 * HEAD).transpose(1, 2).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(HEAD)
        if self.cap is not None:
            scores = self.cap * torch.tanh(scores / self.cap)
        if self.change is not None:
            scores = self.change(scores)
        if self.causal:
            hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, WIDTH))


class Network(nn.Module):
    """A gated network with a packed first matrix and an activation by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.packed(x).chunk(2, -1)
        return self.down(gate * torch.sigmoid(1.702 * gate) * up)


class Block(nn.Module):
    """x + 0.5 attention(norm(x)), then 2 x + network(norm(x)), in the shape of a function."""

    def __init__(self, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = RootMeanSquare(), RootMeanSquare()
        self.attention = attention or Heads()
        self.network = Network()

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.attention(self.norm1(x))
        return 2 * x + self.network(self.norm2(x))


class Model(nn.Module):
    """Words, blocks, a norm, a head that is the table of words."""

    def __init__(self, blocks: list[nn.Module] | None = None, *, tied: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Embedding(16, WIDTH)
        self.blocks = nn.ModuleList(blocks or [Block(Heads(cap=20.0)) for _ in range(2)])
        self.norm = RootMeanSquare(1e-5)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = math.sqrt(WIDTH) * self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Broken(nn.Module):
    """A block around whatever a test puts in the place of its attention or its branch."""

    def __init__(self, branch: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True)
        self.more = nn.Linear(WIDTH, WIDTH)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x + self.more(self.branch(x))


class LinearAttention(nn.Module):
    """Attention without a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.fused(x).chunk(3, -1)
        return F.elu(q) @ (F.elu(k).transpose(-1, -2) @ v)


class TwoStreams(nn.Module):
    """ResiDual: a second sum of all branches beside the Post-LN stream."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([Heads(), Network()])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        r = x
        for branch, norm in zip(self.branches, self.norms, strict=False):
            y = branch(x)
            x, r = norm(x + y), r + y
        return x + self.norms[2](r)


def vectors(seed: int = 0, batch: int = 2, tokens: int = 7) -> Tensor:
    """Vectors (batch, tokens, width)."""
    return torch.randn(batch, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


def ids(seed: int = 0, batch: int = 2, tokens: int = 7) -> Tensor:
    """Ids (batch, tokens)."""
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(seed))

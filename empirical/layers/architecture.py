"""Whole models: embeddings, layers, norm and head; encoder and decoder."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from empirical.layers.base import ALONE, Context
from empirical.layers.token_maps import Linear
from meanfield import ops
from meanfield.errors import InputError


class Embedding(nn.Module):
    """Rows of a table, times a scale; ``common`` to encoder and decoder, its name has no prefix."""

    def __init__(self, op: ops.Embedding) -> None:
        super().__init__()
        self.name, self.scale, self.common = op.name, float(op.scale), False
        self.laws = {"weight": op.weight}
        self.weight = nn.Parameter(torch.zeros(op.vocab, op.width))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up (batch, tokens) integers."""
        return self.scale * F.embedding(ids, self.weight)  # (batch, tokens, width)


class Embeddings(nn.Module):
    """The sum of the embeddings of tokens, of positions 0, 1, ... and of the first segment.

    Without an embedding of tokens it hands vectors on: its output is the input of the stack either way.
    """

    name = "input"

    def __init__(
        self, token: Embedding | None, position: Embedding | None, segment: Embedding | None
    ) -> None:
        super().__init__()
        self.token, self.position, self.segment = token, position, segment

    def forward(self, ids: Tensor) -> Tensor:
        """Embed (batch, tokens) integers, or hand on (batch, tokens, width)."""
        if self.token is None:
            return ids
        x = self.token(ids)  # (batch, tokens, width)
        if self.position is not None:
            rows, tokens = len(self.position.weight), ids.shape[1]
            if tokens > rows:
                raise InputError(
                    f"tokens={tokens} is more than the {rows} learned positions: give fewer tokens"
                )
            x = x + self.position(torch.arange(tokens, device=ids.device))  # (tokens, width)
        return x if self.segment is None else x + self.segment(torch.zeros_like(ids))


class Head(nn.Module):
    """The output head; a tied one reads the table of an embedding, which is given it later."""

    def __init__(self, op: ops.Head, transform: nn.Module | None = None) -> None:
        super().__init__()
        self.name, self.tied, self.scale = op.name, op.tied, float(op.scale)
        self.softcap = None if op.softcap is None else float(op.softcap)
        self.transform = transform
        self.linear = None if op.tied else Linear(op.linear, op.name)
        # a bias beside a tied table is the head's own
        bias = op.linear.bias if op.tied else None
        self.laws = {} if bias is None else {"bias": bias}
        self.bias = None if bias is None else nn.Parameter(torch.zeros(op.linear.d_out))
        self.embedding: Embedding | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Turn hidden states into logits."""
        if self.transform is not None:
            x = self.transform(x)  # (batch, tokens, d_in)
        if self.linear is not None:
            y = self.linear(x)  # (batch, tokens, vocab)
        else:
            assert self.embedding is not None
            y = x @ self.embedding.weight.T
        y = self.scale * (y if self.bias is None else y + self.bias)
        return y if self.softcap is None else self.softcap * torch.tanh(y / self.softcap)


class Transformer(nn.Module):
    """A stack of layers on ids (batch, tokens), or on vectors where there is no embedding."""

    def __init__(
        self,
        embeddings: Embeddings,
        entry: nn.Module | None,
        blocks: Iterable[nn.Module],
        final_norm: nn.Module | None,
        head: nn.Module | None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.entry = entry or nn.Identity()
        self.layers = nn.ModuleList(blocks)
        self.final_norm = final_norm or nn.Identity()
        self.head = head or nn.Identity()

    def hidden(self, x: Tensor, *, context: Context = ALONE) -> Tensor:
        """Everything below the head."""
        x = self.entry(self.embeddings(x))  # (batch, tokens, width), or two of them
        for layer in self.layers:
            x = layer(x, context)
        x = self.final_norm(x)  # (batch, tokens, width)
        if not isinstance(x, Tensor):
            raise InputError("the last layer gives two streams: give final_norm=Merge(...)")
        return x

    def forward(self, x: Tensor, *, context: Context = ALONE) -> Tensor:
        """Logits, or the last hidden state where there is no head."""
        return self.head(self.hidden(x, context=context))  # (batch, tokens, vocab or width)


class EncoderDecoder(nn.Module):
    """The sequence-to-sequence model: ids (or vectors) of the source and, teacher-forced, of the target."""

    def __init__(self, encoder: Transformer, decoder: Transformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    @property
    def head(self) -> nn.Module:
        """The decoder's head."""
        return self.decoder.head

    def hidden(self, source: Tensor, target: Tensor, *, context: Context = ALONE) -> Tensor:
        """Everything below the decoder's head; the context pads the target, and the memory for the source."""
        source_context = Context(context.memory_padding)
        memory = self.encoder.hidden(source, context=source_context)  # (batch, source tokens, width)
        context = Context(context.padding, memory, context.memory_padding)
        return self.decoder.hidden(target, context=context)  # (batch, target tokens, width)

    def forward(self, source: Tensor, target: Tensor, *, context: Context = ALONE) -> Tensor:
        """Logits at every target position."""
        return self.head(self.hidden(source, target, context=context))  # (batch, target tokens, vocab)

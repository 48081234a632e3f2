"""Random inputs: vectors of given covariance, or ids."""

from __future__ import annotations

import torch
from torch import Tensor

from empirical.build import Architecture
from empirical.draws import normal
from empirical.setting import Conditions
from meanfield import ops
from meanfield.random import Stream, stream


class Inputs:
    """Inputs of one seed, mini-batch after mini-batch: k batches of B are one batch of k B.

    Vectors are X = R Z with R R^T the Gram matrix, 1 if none is given, and Z standard normal.

    Args:
        arch: The architecture, which says whether inputs are vectors or ids.
        seed: The seed of the run.
        like: Gives dtype and device.
        fixed: What is not drawn.
    """

    def __init__(self, arch: Architecture, seed: int, like: Tensor, fixed: Conditions | None = None) -> None:
        fixed = fixed or Conditions()
        pairs: list[tuple[ops.Transformer, Conditions]]
        if isinstance(arch, ops.EncoderDecoder):
            pairs = [(arch.encoder, fixed.source or Conditions()), (arch.decoder, fixed)]
        else:
            pairs = [(arch, fixed)]
        self.streams = [(*pair, stream(seed, f"input{k}")) for k, pair in enumerate(pairs)]
        self.like = like

    def draw(self, batch: int, tokens: int, source_tokens: int | None = None) -> list[Tensor]:
        """Draw the next mini-batch.

        Args:
            batch: Sequences.
            tokens: Tokens in a sequence; of the target for an encoder-decoder.
            source_tokens: Tokens in a source sequence; as many as in the target if None.

        Returns:
            The arguments of the model.
        """
        lengths = [tokens] if len(self.streams) == 1 else [source_tokens or tokens, tokens]
        return [self._one(*parts, batch, length) for parts, length in zip(self.streams, lengths, strict=True)]

    def _one(
        self, stack: ops.Transformer, fixed: Conditions, generator: Stream, batch: int, tokens: int
    ) -> Tensor:
        """Draw the input of one stack, (batch, tokens, width) or (batch, tokens)."""
        if stack.embedding is None:
            x = normal(generator, (batch, tokens, stack.width), self.like)
            if fixed.root is not None:
                root = torch.from_numpy(fixed.root).to(self.like)  # (batch * tokens, batch * tokens)
                x = (root @ x.flatten(0, 1)).view_as(x)
            return x.requires_grad_()
        ids = fixed.ids
        if ids is None:
            ids = generator.integers(stack.embedding.vocab, size=(batch, tokens))
        return torch.from_numpy(ids).to(self.like.device)

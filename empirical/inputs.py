"""Random inputs: vectors of given covariance, or ids."""

from __future__ import annotations

import torch
from torch import Tensor

from empirical.build import Architecture
from empirical.draws import normal, stream
from empirical.setting import Conditions
from meanfield import ops


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
        stacks = [arch.encoder, arch.decoder] if isinstance(arch, ops.EncoderDecoder) else [arch]
        self.streams = [(stack, stream(seed, f"input{k}")) for k, stack in enumerate(stacks)]
        self.like, self.fixed = like, fixed or Conditions()

    def draw(self, batch: int, tokens: int) -> list[Tensor]:
        """Draw the next mini-batch.

        Args:
            batch: Sequences.
            tokens: Tokens in a sequence.

        Returns:
            The arguments of the model.
        """
        inputs = []
        for stack, generator in self.streams:
            if stack.embedding is None:
                x = normal(generator, (batch, tokens, stack.width), self.like)
                if self.fixed.root is not None:
                    root = torch.from_numpy(self.fixed.root).to(self.like)  # (batch * tokens, batch * tokens)
                    x = (root @ x.flatten(0, 1)).view_as(x)
                x.requires_grad_()
            elif self.fixed.ids is not None:
                x = torch.from_numpy(self.fixed.ids).to(self.like.device)
            else:
                ids = generator.integers(stack.embedding.vocab, size=(batch, tokens))
                x = torch.from_numpy(ids).to(self.like.device)
            inputs.append(x)  # (batch, tokens, width) or (batch, tokens)
        return inputs

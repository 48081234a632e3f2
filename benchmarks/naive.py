"""The loop that a user would write: build torch's own modules, run them forward and back, read norms."""

from __future__ import annotations

import torch
from torch import nn

TOKENS = 32


def squares(width: int, depth: int, batch: int, seed: int) -> dict[str, float]:
    """Measure ||dL/dtheta||^2 of every parameter of a Pre-LN encoder for the linear probe.

    Args:
        width: d; heads are 64 wide and the feed-forward op 4 d.
        depth: Layers.
        batch: Sequences of `TOKENS` tokens.
        seed: Of weights, input and probe.

    Returns:
        Parameter -> squared norm.
    """
    torch.manual_seed(seed)
    layers = nn.ModuleList(
        nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        for _ in range(depth)
    )
    y = torch.randn(batch, TOKENS, width)
    probe = torch.randn_like(y) / width**0.5
    for layer in layers:
        y = layer(y)
    ((probe * y).sum() / (batch * TOKENS)).backward()
    return {name: parameter.grad.norm().item() ** 2 for name, parameter in layers.named_parameters()}

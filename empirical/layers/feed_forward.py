"""The position-wise network, plain or gated."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from empirical.layers.base import ALONE, Context
from empirical.layers.token_maps import ACTIVATIONS, Linear
from meanfield import ops


class FeedForward(nn.Module):
    """The network down(inner(activation(up(x)))), or down(inner(activation(gate(x)) * up(x)))."""

    def __init__(self, op: ops.FeedForward, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.name = op.name
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[op.activation]
        self.gate = Linear(op.gate, f"{op.name}.gate") if op.gate is not None else None
        self.up = Linear(op.up, f"{op.name}.up")
        self.inner = inner
        self.down = Linear(op.down, f"{op.name}.down")

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Apply the network to every token."""
        up = self.up(x)  # (batch, tokens, d_ff)
        y = self.activation(up) if self.gate is None else self.activation(self.gate(x)) * up
        y = y if self.inner is None else self.inner(y, context)
        return self.down(y)  # (batch, tokens, width)

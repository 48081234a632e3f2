"""Maps of one token: linear map, norm, activation, learned gain, constant factor, dropout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from empirical.layers.base import ALONE, Context
from meanfield import ops
from meanfield.errors import InputError


class Linear(nn.Module):
    """The map x W + b; the op around it names it, or else its own."""

    def __init__(self, op: ops.Linear, name: str | None = None) -> None:
        super().__init__()
        self.name = op.name if name is None else name
        self.laws = {"weight": op.weight} | ({"bias": op.bias} if op.bias is not None else {})
        self.weight = nn.Parameter(torch.zeros(op.d_in, op.d_out))
        self.bias = nn.Parameter(torch.zeros(op.d_out)) if op.bias is not None else None

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Map the last axis, d_in -> d_out; `context` is not read."""
        y = x @ self.weight  # (batch, tokens, d_out)
        return y if self.bias is None else y + self.bias


class Norm(nn.Module):
    """LayerNorm or RMSNorm; if affine with gain (``weight``) and, for LayerNorm, shift (``bias``)."""

    def __init__(self, op: ops.Norm) -> None:
        super().__init__()
        self.name, self.eps, self.width, self.centres = op.name, op.eps, op.width, op.kind == "layernorm"
        self.laws = ({"weight": op.gain} if op.affine else {}) | ({"bias": op.shift} if op.has_shift else {})
        self.weight = nn.Parameter(torch.ones(op.width)) if op.affine else None
        self.bias = nn.Parameter(torch.zeros(op.width)) if op.has_shift else None

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Normalise every token; `context` is not read."""
        if self.centres:
            return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)  # (batch, tokens, width)
        mean_square = x.square().mean(-1, keepdim=True)  # (batch, tokens, 1)
        y = x * torch.rsqrt(mean_square + self.eps)  # (batch, tokens, width)
        return y if self.weight is None else y * self.weight


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "identity": lambda x: x,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu_squared": lambda x: F.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Activation(nn.Module):
    """A non-linearity by itself."""

    def __init__(self, op: ops.Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[op.activation]

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Act on every coordinate; `context` is not read."""
        return self.activation(x)


class Gain(nn.Module):
    """Learned factors (``weight``): one for each coordinate, for each head or for all."""

    def __init__(self, op: ops.Gain) -> None:
        super().__init__()
        self.name = op.name
        self.laws = {"weight": ops.Draw(0, mean=op.value)}
        self.weight = nn.Parameter(torch.zeros(op.width))

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Multiply equal shares of the coordinates, each by its factor; `context` is not read."""
        if x.shape[-1] % len(self.weight):
            raise InputError(
                f"{self.name} has {len(self.weight)} factors for {x.shape[-1]} coordinates: give a divisor"
            )
        return x * self.weight.repeat_interleave(x.shape[-1] // len(self.weight))  # (batch, tokens, width)


class Scale(nn.Module):
    """A constant factor."""

    def __init__(self, op: ops.Scale) -> None:
        super().__init__()
        self.factor = float(op.factor)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Multiply; `context` is not read."""
        return self.factor * x


class Dropout(nn.Module):
    """Zeroes coordinates at a rate and divides the others by 1 - rate, in train mode alone.

    The mask is the next draw of ``generator``, so that equal seeds see equal masks on every device. Without
    one (None) it comes from torch's generator of the device, which needs no copy: for training.
    """

    def __init__(self, rate: ops.Number) -> None:
        super().__init__()
        self.rate = float(rate)
        self.generator: np.random.Generator | None = np.random.default_rng(0)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Drop; `context` is not read."""
        if not self.training or self.rate == 0:
            return x
        if self.generator is None:
            return F.dropout(x, self.rate)
        kept = torch.from_numpy(self.generator.random(tuple(x.shape), dtype=np.float32) >= self.rate)
        return x * kept.to(x) / (1 - self.rate)

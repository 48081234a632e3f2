"""Torch as the array library of the explicit passes of `meanfield.weight_free`, on the host or a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import NDArray

from empirical.device import torch_device, torch_dtype
from meanfield.random import fill_normal
from meanfield.weight_free import Backend
from meanfield.weight_free.backend import Array, Streams, generator

_ATEN = torch.ops.aten
FUSED: Mapping[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "gelu": (F.gelu, _ATEN.gelu_backward),
    "gelu_tanh": (
        lambda u: F.gelu(u, approximate="tanh"),
        lambda g, u: _ATEN.gelu_backward(g, u, approximate="tanh"),
    ),
    "relu": (F.relu, lambda g, u: _ATEN.threshold_backward(g, u, 0)),
    "silu": (F.silu, _ATEN.silu_backward),
}
"""Activations that torch evaluates in one pass, with their gradients."""


class TorchBackend(Backend):
    """Torch arrays on a device, with random numbers drawn there.

    Args:
        dtype: ``"float32"`` or ``"float64"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    xp = array_api_compat.torch
    fused = FUSED

    def __init__(self, dtype: str, device: str) -> None:
        super().__init__(dtype)
        self.device = torch_device(device)
        self.host_dtype = self.dtype
        self.dtype = torch_dtype(dtype, self.device)
        if self.device.type != "cpu":
            self.entries = 2**24  # a device wants many seeds at once
            self.ahead = 2**20  # and few calls

    def streams(self, seeds: Sequence[int]) -> Streams:
        """Open one stream for each seed, of numpy on the host and of torch on a device."""
        if self.device.type == "cpu":
            return super().streams(seeds)
        keys = [int(generator(seed, self.device.type).integers(2**63)) for seed in seeds]
        return Streams(self, [torch.Generator(self.device).manual_seed(key) for key in keys])

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Make room for numbers on the device."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def fill(self, generators: list[Any], out: Array) -> None:
        """Fill rows (seeds, numbers) with standard normals, each from its own generator."""
        if self.device.type == "cpu":
            fill_normal(generators, out.numpy())
            return
        for each, row in zip(generators, out, strict=True):
            row.normal_(generator=each)

    def uniform(self, generators: list[Any], shape: tuple[int, ...]) -> Array:
        """Draw uniform numbers in [0, 1) of shape (seeds, *shape)."""
        if self.device.type == "cpu":
            return torch.from_numpy(
                np.stack([each.random(shape, dtype=self.host_dtype) for each in generators])
            )
        out = self.empty((len(generators), *shape))
        for each, row in zip(generators, out, strict=True):
            row.uniform_(generator=each)
        return out

    def matmul(self, a: Array, b: Array) -> Array:
        """Multiply stacks of matrices (seeds, ., .); a single one goes the faster way of plain matrices."""
        return torch.mm(a[0], b[0])[None] if len(a) == len(b) == 1 else torch.bmm(a, b)

    def asarray(self, values: NDArray[Any]) -> Array:
        """Bring host values to the device; floating-point values take the backend's type."""
        tensor = torch.from_numpy(np.array(values))
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def host(self, values: Array) -> NDArray[np.float64]:
        """Bring values to the host in double precision."""
        return np.asarray(values.cpu().numpy(), dtype=np.float64)

    def erf(self, x: Array) -> Array:
        """Compute the error function."""
        return torch.erf(x)

    def softmax(self, s: Array) -> Array:
        """Normalise exponentials over the last axis."""
        return torch.softmax(s, -1)

    def softmax_back(self, weights: Array, g: Array) -> Array:
        """Carry the gradient of a softmax back to what it was taken of."""
        return torch.ops.aten._softmax_backward_data(g, weights, -1, weights.dtype)

    def cholesky(self, gram: Array) -> Array:
        """Factorise each matrix of a stack; NaN where one is not positive definite."""
        lower, fault = torch.linalg.cholesky_ex(gram)
        return torch.where(fault[:, None, None] == 0, lower, torch.nan)

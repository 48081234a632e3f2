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
from empirical.draws import fill
from meanfield.ops import Draw
from meanfield.random import fill_normal, stream
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
            self.ahead, self.looks = 2**20, False  # few calls, and none that waits
            self.generator = torch.Generator(self.device)

    def streams(self, seeds: Sequence[int]) -> Streams:
        """Open one stream for each seed, of numpy on the host and of torch on a device."""
        if self.device.type == "cpu":
            return super().streams(seeds)
        keys = [int(generator(seed, self.device.type).integers(2**63)) for seed in seeds]
        return Streams(self, [torch.Generator(self.device).manual_seed(key) for key in keys])

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Make room for numbers on the device."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Make an array of zeros."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

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

    def tensor(
        self, seeds: Sequence[int], purpose: str, law: Draw, shape: tuple[int, ...], out: Array | None = None
    ) -> Array:
        """Draw one tensor for each seed, each from the stream of the seed and the purpose.

        On the host it is what `empirical.build` draws; a device draws for itself, from the same law.

        Args:
            seeds: The seeds.
            purpose: Name of the tensor.
            law: Of its entries.
            shape: Its shape.
            out: Where it shall lie, (seeds, *shape); new memory if None.

        Returns:
            The tensors, (seeds, *shape).
        """
        out = self.empty((len(seeds), *shape)) if out is None else out
        if self.device.type == "cpu":
            for seed, row in zip(seeds, out.numpy(), strict=True):
                fill(stream(seed, purpose), law, row)
            return out
        deviation = float(law.variance) ** 0.5
        if not deviation:
            return out.fill_(float(law.mean))
        for seed, row in zip(seeds, out, strict=True):
            own = self.generator.manual_seed(int(stream(seed, purpose).integers(2**63)))
            if law.law == "normal":
                row.normal_(float(law.mean), deviation, generator=own)
            else:
                half = 3**0.5 * deviation
                row.uniform_(float(law.mean) - half, float(law.mean) + half, generator=own)
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

    def matmul_back(self, g: Array, weight: Array) -> Array:
        """Compute g W^T for each seed; of a single one as (W g^T)^T, which reads W as it lies."""
        if len(g) > 1:
            return torch.bmm(g, weight.transpose(1, 2))
        return torch.mm(weight[0], g[0].T).T.contiguous()[None]

    def affine(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Compute x W + b for each seed; b is (seeds, 1, d_out)."""
        if bias is None:
            return self.matmul(x, weight)
        if len(x) == 1:
            return torch.addmm(bias[0], x[0], weight[0])[None]
        return torch.baddbmm(bias, x, weight)

    def squared(self, x: Array) -> Array:
        """Sum the squares over all axes but the first; row by row, since long sums of floats lose digits."""
        rows = torch.linalg.vector_norm(x, dim=-1) if x.ndim > 1 else x
        return rows.square().reshape(len(x), -1).sum(1)

    def norm(self, kind: str, x: Array, eps: float) -> tuple[Array, Any]:
        """Normalise the last axis, in one pass where torch can."""
        if kind != "layernorm":
            return super().norm(kind, x, eps)
        y, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        return y, (x, y, mean, inverse)

    def norm_back(self, kind: str, saved: Any, g: Array, gain: Array | float) -> tuple[Array, Array, Array]:
        """Carry a gradient back through a norm with a gain, in one pass where torch can."""
        if kind != "layernorm":
            return super().norm_back(kind, saved, g, gain)
        x, y, mean, inverse = saved
        size = x.shape[-1]
        back, whole = _ATEN.native_layer_norm_backward, not isinstance(gain, torch.Tensor)
        if len(x) == 1 and whole:
            unit = torch.ones(size, dtype=x.dtype, device=x.device)
            before, of_gain, of_shift = back(g, x, [size], mean, inverse, unit, unit, [True, True, True])
            return (before if gain == 1 else gain * before), of_gain[None], of_shift[None]
        own = g if whole and gain == 1 else gain * g
        before, _, _ = back(own.contiguous(), x, [size], mean, inverse, None, None, [True, False, False])
        return before, self._over_tokens(g * y), self._over_tokens(g)

    def packed(self, x: Array) -> Array:
        """Lay an array out in the order of its axes."""
        return x.contiguous()

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

"""Torch as the array library of the explicit passes of `meanfield.weight_free`, on the host or a device."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import NDArray

from empirical.device import stored, torch_device, torch_dtype
from empirical.draws import fill
from meanfield.ops import Draw
from meanfield.random import fill_normal
from meanfield.weight_free import Backend
from meanfield.weight_free.backend import Array, Streams

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


MOST = 4096  # seeds at once on a device, which has enough to do then
SHARE = 0.8  # of free memory that they are planned to take
EXHAUSTED = ("not enough memory", "out of memory", "ALLOC_FAILED")
"""How torch says that memory has ended where no type does; the last by CUDA's libraries."""


class DeviceStreams(Streams):
    """Random numbers of several seeds on a device, where each call for each seed costs more than numbers."""

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Draw uniform numbers in [0, 1], (seeds, *shape), as shares of standard normals below others."""
        return 0.5 * (1 + torch.erf(self.normal(shape) * 0.5**0.5))


class TorchBackend(Backend):
    """Torch arrays on a device, with random numbers drawn there.

    Args:
        dtype: ``"float32"`` or ``"float64"``, or ``"tf32"`` on CUDA, whose products the caller has to ask for
            (`empirical.device.device_products`).
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    xp = array_api_compat.torch
    entries = 2**20  # a call costs more than in numpy
    fused = FUSED
    remote = False
    """Whether arrays lie where numpy does not reach; torch draws there, and nobody waits."""
    worth_a_call = 2**22
    """Numbers that a device draws at a time: tensors of several seeds, where one is smaller."""

    def __init__(self, dtype: str, device: str) -> None:
        self.device = torch_device(device)
        super().__init__(stored(dtype, self.device))
        self.host_dtype = self.dtype
        self.dtype = torch_dtype(str(self.host_dtype), self.device)
        if self.device.type != "cpu":
            self.go_remote()

    def go_remote(self) -> None:
        """Draw where the arrays are, do many seeds at once, and wait for none of them."""
        self.remote, self.looks = True, False
        self.entries, self.ahead = 2**24, 2**20

    def generator(self, key: int) -> torch.Generator:
        """Open a stream of random numbers of the device."""
        return torch.Generator(self.device).manual_seed(key)

    def streams(self, seeds: Sequence[int]) -> Streams:
        """Open one stream for each seed, of numpy on the host and of torch on a device."""
        if not self.remote:
            return super().streams(seeds)
        return DeviceStreams(self, [self.generator(device_key(seed, "weight_free")) for seed in seeds])

    def together(self, largest: int, kept: int) -> int:
        """Choose how many seeds run at once: on CUDA as many as a part of its free memory holds."""
        free = self.free()
        if free is None:
            return super().together(largest, kept)
        numbers = kept + 2 * self.ahead
        return max(1, min(MOST, int(SHARE * free / (self.host_dtype.itemsize * numbers))))

    def free(self) -> int | None:
        """Count the bytes that are free on the device; None where nobody says, or on the host."""
        if self.device.type != "cuda":
            return None
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + unused

    def out_of_memory(self, error: Exception) -> bool:
        """Tell whether an error means that memory has ended; on the host torch says so in words alone."""
        own = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        return own or any(words in str(error) for words in EXHAUSTED)

    def release(self) -> None:
        """Give memory that torch has kept for later back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Make room for numbers on the device."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Make an array of zeros."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def fill(self, generators: list[Any], out: Array) -> None:
        """Fill rows (seeds, numbers) with standard normals, each from its own generator."""
        if not self.remote:
            fill_normal(generators, out.numpy())
            return
        for each, row in zip(generators, out, strict=True):
            row.normal_(generator=each)

    def uniform(self, generators: list[Any], shape: tuple[int, ...]) -> Array:
        """Draw uniform numbers in [0, 1) on the host, (seeds, *shape)."""
        return torch.from_numpy(np.stack([each.random(shape, dtype=self.host_dtype) for each in generators]))

    def tensor(
        self, seeds: Sequence[int], purpose: str, law: Draw, shape: tuple[int, ...], out: Array | None = None
    ) -> Array:
        """Draw one tensor for each seed, each from the stream of the seed and the purpose.

        On the host it is what `empirical.build` draws; a device draws for itself, from the same law. Tensors
        that are not worth a call of their own are drawn in blocks: those of seeds k m, ..., k m + m - 1 are
        one stream's, where m depends on the shape alone; so a seed gets the same in any company.

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
        if not self.remote:
            fill(seeds, purpose, law, out.numpy())
            return out
        if not law.variance:
            return out.fill_(float(law.mean))
        together = max(1, self.worth_a_call // math.prod(shape))
        start = 0
        for block, members in itertools.groupby(seeds, lambda seed: seed // together):
            places = [seed % together for seed in members]
            rows = out[start : start + len(places)]
            whole = places == list(range(together))
            drawn = rows if whole else self.empty((together, *shape))
            self._draw(self.generator(device_key(block, purpose)), law, drawn)
            if not whole:
                torch.index_select(drawn, 0, self.asarray(np.array(places)), out=rows)
            start += len(places)
        return out

    def _draw(self, generator: torch.Generator, law: Draw, out: Array) -> None:
        mean, deviation = float(law.mean), float(law.variance) ** 0.5
        if law.law == "normal":
            out.normal_(mean, deviation, generator=generator)
        else:
            half = 3**0.5 * deviation
            out.uniform_(mean - half, mean + half, generator=generator)

    def matmul(self, a: Array, b: Array) -> Array:
        """Multiply stacks of matrices (seeds, ., .); a single one goes the faster way of plain matrices."""
        return torch.mm(a[0], b[0])[None] if len(a) == len(b) == 1 else torch.bmm(a, b)

    def asarray(self, values: NDArray[Any]) -> Array:
        """Bring host values to the device; floating-point values take the backend's type."""
        own = np.array(values, self.host_dtype if values.dtype.kind == "f" else None)
        # CUDA has taken the values before it returns, MPS may read them when they are gone
        return torch.from_numpy(own).to(self.device, non_blocking=self.device.type != "mps")

    def host(self, values: Array) -> NDArray[np.float64]:
        """Bring values to the host in double precision."""
        return np.asarray(values.cpu().numpy(), dtype=np.float64)

    def erf(self, x: Array) -> Array:
        """Compute the error function."""
        return torch.erf(x)

    def affine(self, x: Array, weight: Array, bias: Array | None, out: Array) -> None:
        """Compute x W + b for each seed; b is (seeds, 1, d_out), or as large as ``out``, which it may be."""
        if len(x) == 1 and bias is None:
            torch.mm(x[0], weight[0], out=out[0])
        elif len(x) == 1 and bias is not None:
            torch.addmm(bias[0], x[0], weight[0], out=out[0])
        elif bias is None:
            torch.bmm(x, weight, out=out)
        else:
            torch.baddbmm(bias, x, weight, out=out)

    def matmul_back(self, g: Array, weight: Array, out: Array) -> None:
        """Compute g W^T for each seed; of a single one as (W g^T)^T, which reads W as it lies."""
        if len(g) > 1:
            torch.bmm(g, weight.transpose(1, 2), out=out)
        else:
            out[0].copy_(torch.mm(weight[0], g[0].T).T)

    def add_product(self, c: Array, a: Array, b: Array) -> Array:
        """Compute c + a b in one pass, one product for each seed; in place of c where it is as large."""
        out = c if c.shape[1] == a.shape[1] else None
        if len(c) > 1:
            return torch.baddbmm(c, a, b, out=out)
        return torch.addmm(c[0], a[0], b[0], out=None if out is None else out[0])[None]

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

    def cholesky(self, gram: Array) -> tuple[Array, Array]:
        """Factorise each matrix of a stack, and say which (seeds,) are positive definite; others are void."""
        lower, fault = torch.linalg.cholesky_ex(gram)
        return lower, fault == 0

    def inverse(self, lower: Array) -> Array:
        """Invert each lower triangular matrix of a stack, by a call that a device need not wait for."""
        unit = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, unit, upper=False)


def device_key(seed: int, purpose: str) -> int:
    """Find the key of a device's stream, apart from those of the host.

    Args:
        seed: A seed, or the number of a block of them.
        purpose: What is drawn.

    Returns:
        63 bits.

    Example:
        >>> device_key(0, "input0") == device_key(0, "input0"), device_key(0, "a") == device_key(1, "a")
        (True, False)
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8, person=b"device").digest()
    return int.from_bytes(digest, "big") >> 1

"""Where the sampler computes: an array namespace, its random numbers and the functions it lacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import array_api_compat.numpy
import numpy as np
from numpy.typing import NDArray

from meanfield.errors import UnknownNameError
from meanfield.random import fill_normal, stream

Array: TypeAlias = Any
"""An array of the backend's namespace; the first axis counts seeds."""

DTYPES = ("float32", "float64")


class Streams:
    """Standard normals of several seeds, each from its own stream.

    Small draws are served from numbers drawn ahead; what a seed gets depends on the shapes asked for before
    alone, and not on the seeds beside it.

    Args:
        backend: Where numbers are drawn.
        generators: One for each seed.
    """

    def __init__(self, backend: Backend, generators: list[Any]) -> None:
        self.backend, self.generators = backend, generators
        self._ahead: Array | None = None
        self._next = backend.ahead

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Draw standard normals of shape (seeds, *shape)."""
        backend, numbers = self.backend, math.prod(shape)
        if 4 * numbers > backend.ahead:
            out = backend.empty((len(self), *shape))
            backend.fill(self.generators, backend.xp.reshape(out, (len(self), numbers)))
            return out
        if self._ahead is None or self._next + numbers > backend.ahead:
            self._ahead, self._next = (
                backend.empty((len(self), backend.ahead)),
                0,
            )  # views of the last live on
            backend.fill(self.generators, self._ahead)
        drawn = self._ahead[:, self._next : self._next + numbers]
        self._next += numbers
        return backend.xp.reshape(drawn, (len(self), *shape))

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Draw uniform numbers in [0, 1) of shape (seeds, *shape)."""
        return self.backend.uniform(self.generators, shape)


class Backend:
    """Numpy arrays on the host.

    Args:
        dtype: ``"float32"`` or ``"float64"``.

    Raises:
        UnknownNameError: If the type is neither.
    """

    xp: Any = array_api_compat.numpy
    entries = 2**17
    """Entries of the largest array that several seeds share; a seed that needs more runs by itself."""
    fused: Mapping[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {}
    """Activations of the backend's own, u -> phi(u) and (g, u) -> g phi'(u), by name."""
    looks = True
    """Whether the host may look at a number in the middle of a pass; on a device it would wait for it."""

    def __init__(self, dtype: str = "float64") -> None:
        if dtype not in DTYPES:
            raise UnknownNameError("dtype", dtype, DTYPES)
        self.dtype: Any = np.dtype(dtype)
        self.eps = float(np.finfo(dtype).eps)
        self.tiny = float(np.finfo(dtype).tiny) / self.eps  # the least square that keeps its digits
        self.ahead = 2**14 if dtype == "float32" else 0  # numbers drawn ahead: many at once are faster

    def together(self, largest: int, kept: int) -> int:
        """Choose how many seeds run at once.

        Args:
            largest: Numbers of the largest array of one seed.
            kept: Numbers that one seed has in memory where it turns back; see `room.numbers_kept`.

        Returns:
            At least 1; on the host as many as share a processor's cache.
        """
        return max(1, self.entries // largest)

    def out_of_memory(self, error: Exception) -> bool:
        """Tell whether an error means that memory has ended."""
        return isinstance(error, MemoryError)

    def release(self) -> None:
        """Give memory back that is kept for later."""

    def streams(self, seeds: Sequence[int]) -> Streams:
        """Open one stream of random numbers for each seed."""
        return Streams(self, [generator(seed) for seed in seeds])

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Make room for numbers."""
        return np.empty(shape, self.dtype)

    def fill(self, generators: list[Any], out: Array) -> None:
        """Fill rows (seeds, numbers) with standard normals, each from its own generator."""
        fill_normal(generators, out)

    def uniform(self, generators: list[Any], shape: tuple[int, ...]) -> Array:
        """Draw uniform numbers in [0, 1) of shape (seeds, *shape)."""
        return np.stack([each.random(shape, dtype=self.dtype) for each in generators])

    def matmul(self, a: Array, b: Array) -> Array:
        """Multiply stacks of matrices (seeds, ., .), one product for each seed."""
        return a @ b

    def asarray(self, values: NDArray[Any]) -> Array:
        """Bring host values into the namespace; floating-point values take the backend's type."""
        return values.astype(self.dtype) if values.dtype.kind == "f" else values

    def host(self, values: Array) -> NDArray[np.float64]:
        """Bring values to the host in double precision."""
        return np.asarray(values, dtype=np.float64)

    def erf(self, x: Array) -> Array:
        """Compute the error function."""
        from scipy.special import erf  # a tenth of a second: not at import

        return erf(x)

    def add_product(self, c: Array, a: Array, b: Array) -> Array:
        """Compute c + a b, one product for each seed; where c is as large it may be overwritten."""
        return c + a @ b

    def squared(self, x: Array) -> Array:
        """Sum the squares over all axes but the first."""
        flat = self.xp.reshape(x, (x.shape[0], 1, -1))
        return self.xp.reshape(flat @ self.xp.matrix_transpose(flat), (-1,))

    def norm(self, kind: str, x: Array, eps: float) -> tuple[Array, Any]:
        """Normalise the last axis: (x - mean) / sqrt(mean square + eps), without the mean for ``"rmsnorm"``.

        Args:
            kind: ``"layernorm"`` or ``"rmsnorm"``.
            x: Tokens (seeds, ..., d).
            eps: Added to the mean square.

        Returns:
            The normalised tokens, and what `norm_back` needs.
        """
        if kind == "layernorm":
            x = x - self.xp.mean(x, axis=-1, keepdims=True)
        inverse = 1 / self.xp.sqrt(self.xp.mean(x * x, axis=-1, keepdims=True) + eps)
        y = x * inverse
        return y, (y, inverse)

    def norm_back(self, kind: str, saved: Any, g: Array, gain: Array | float) -> tuple[Array, Array, Array]:
        """Carry a gradient back through a norm with a gain.

        Args:
            kind: ``"layernorm"`` or ``"rmsnorm"``.
            saved: From `norm`.
            g: Gradient of the output, (seeds, ..., d).
            gain: One factor for each coordinate, or for all.

        Returns:
            The gradient of the tokens; the sums of y g and of g over tokens, which are the gradients of gain
            and shift, (seeds, d).
        """
        xp = self.xp
        y, inverse = saved
        product = g * y
        sums = (self._over_tokens(product), self._over_tokens(g))
        if isinstance(gain, float) and gain == 1:
            own = g
        else:
            own, product = gain * g, gain * product
        before = own - y * xp.mean(product, axis=-1, keepdims=True)
        if kind == "layernorm":
            before = before - xp.mean(own, axis=-1, keepdims=True)
        return before * inverse, *sums

    def _over_tokens(self, x: Array) -> Array:
        return self.xp.sum(self.xp.reshape(x, (x.shape[0], -1, x.shape[-1])), axis=1)

    def packed(self, x: Array) -> Array:
        """Lay an array out in the order of its axes, once for all products that read it."""
        return np.ascontiguousarray(x)

    def softmax(self, s: Array) -> Array:
        """Normalise exponentials over the last axis."""
        weights = self.xp.exp(s - self.xp.max(s, axis=-1, keepdims=True))
        return weights / self.xp.sum(weights, axis=-1, keepdims=True)

    def softmax_back(self, weights: Array, g: Array) -> Array:
        """Carry the gradient of a softmax back to what it was taken of."""
        ds = weights * g
        return ds - weights * self.xp.sum(ds, axis=-1, keepdims=True)

    def cholesky(self, gram: Array) -> tuple[Array, Array]:
        """Factorise each matrix of a stack, and say which (seeds,) are positive definite; others are void."""
        lower = _each_cholesky(np.linalg.cholesky, gram)
        return lower, ~np.isnan(lower[:, 0, 0])

    def inverse(self, lower: Array) -> Array:
        """Invert each lower triangular matrix of a stack."""
        return self.xp.linalg.inv(lower)


def generator(seed: int, purpose: str = "normal") -> np.random.Generator:
    """Open the host's stream of one seed and purpose, apart from those of dense weights."""
    return stream(seed, f"weight_free/{purpose}")


def _each_cholesky(cholesky: Callable[[Array], Array], gram: Array) -> Array:
    try:
        return cholesky(gram)
    except np.linalg.LinAlgError:  # numpy refuses the whole stack for one of its matrices
        if len(gram) == 1:
            return np.full_like(gram, np.nan)
        return np.concatenate([_each_cholesky(cholesky, gram[k : k + 1]) for k in range(len(gram))])

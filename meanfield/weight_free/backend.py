"""Where the sampler computes: an array namespace, its random numbers and three functions it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import array_api_compat.numpy
import numpy as np
from numpy.typing import NDArray

from meanfield.errors import UnknownNameError

Array: TypeAlias = Any
"""An array of the backend's namespace; the first axis counts seeds."""

DTYPES = ("float32", "float64")


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

    def __init__(self, dtype: str = "float64") -> None:
        if dtype not in DTYPES:
            raise UnknownNameError("dtype", dtype, DTYPES)
        self.dtype: Any = np.dtype(dtype)
        self.eps = float(np.finfo(dtype).eps)
        self.tiny = float(np.finfo(dtype).tiny) / self.eps  # the least square that keeps its digits

    def streams(self, seeds: Sequence[int]) -> list[Any]:
        """Open one stream of random numbers for each seed."""
        return [generator(seed) for seed in seeds]

    def normal(self, streams: list[Any], shape: tuple[int, ...]) -> Array:
        """Draw standard normals of shape (seeds, *shape)."""
        out = np.empty((len(streams), *shape), self.dtype)
        for stream, part in zip(streams, out, strict=True):
            stream.standard_normal(dtype=self.dtype, out=part)
        return out

    def uniform(self, streams: list[Any], shape: tuple[int, ...]) -> Array:
        """Draw uniform numbers in [0, 1) of shape (seeds, *shape)."""
        return np.stack([stream.random(shape, dtype=self.dtype) for stream in streams])

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

    def cholesky(self, gram: Array) -> Array:
        """Factorise each matrix of a stack; NaN where one is not positive definite."""
        return _each_cholesky(np.linalg.cholesky, gram)


def generator(seed: int, purpose: str = "normal") -> np.random.Generator:
    """Open the host's stream of one seed and purpose, apart from those of dense weights."""
    key = int.from_bytes(f"weight_free/{purpose}".encode(), "little")
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(key,))))


def _each_cholesky(cholesky: Callable[[Array], Array], gram: Array) -> Array:
    try:
        return cholesky(gram)
    except np.linalg.LinAlgError:  # numpy refuses the whole stack for one of its matrices
        if len(gram) == 1:
            return np.full_like(gram, np.nan)
        return np.concatenate([_each_cholesky(cholesky, gram[k : k + 1]) for k in range(len(gram))])

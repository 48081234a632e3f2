"""What a fast pass asks of the host while it runs: kept memory, and matrix products by the faster library."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from empirical.device import device_products
from empirical.probe import one_thread
from meanfield import threads

PRODUCT_ERROR = 2e-6  # of a product in single precision; with fewer bits it would be 1e-3
_TRIM, _MAP = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_LARGEST_MAP = 32 * 2**20


@contextmanager
def fast(dtype: str, device: str = "cpu") -> Iterator[str]:
    """Let passes run on one thread, in kept memory, with the faster products.

    Args:
        dtype: Type of the arrays, or ``"tf32"``.
        device: Where they are; away from the host products are as precise as the type, see `device_products`.

    Yields:
        What products are computed by, in words.
    """
    own = fast_products(dtype) if device == "cpu" else device_products(dtype)
    with one_thread(), threads.one_thread(), kept_memory(), own as products:
        yield products


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the C library keep what is freed, so that arrays of one size, pass after pass, cost no page faults.

    Passes of 256 tokens are a quarter faster. Where the library is not glibc nothing is done.

    Yields:
        Nothing; afterwards the library gives back what is free beyond 64 MB, when more is freed.

    Example:
        >>> with kept_memory():
        ...     pass
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_TRIM, 2**31 - 1)
    library.mallopt(_MAP, _LARGEST_MAP)
    try:
        yield
    finally:
        # Where glibc's own rule would have come to after large arrays were freed.
        library.mallopt(_TRIM, 2 * _LARGEST_MAP)


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


@contextmanager
def fast_products(dtype: str) -> Iterator[str]:
    """Let torch multiply matrices on the host by the faster of its libraries that keeps all digits.

    ``torch.set_float32_matmul_precision("medium")`` sends products to oneDNN, twice as fast as MKL on some
    processors; on others it may lose digits, so that a product is tried first.

    Args:
        dtype: Type of the matrices.

    Yields:
        What products are computed by, in words; the setting comes back afterwards.

    Example:
        >>> before = torch.get_float32_matmul_precision()
        >>> with fast_products("float64") as how:
        ...     how
        "torch's own products"
        >>> torch.get_float32_matmul_precision() == before
        True
    """
    before = torch.get_float32_matmul_precision()
    if dtype != "float32" or _error_of_medium() > PRODUCT_ERROR:
        yield "torch's own products"
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield f"products by oneDNN (relative error {_error_of_medium():.0e})"
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _error_of_medium() -> float:
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    torch.set_float32_matmul_precision("medium")
    try:
        found = a @ b
    finally:
        torch.set_float32_matmul_precision(before)
    exact = a.double() @ b.double()
    return ((found - exact).norm() / exact.norm()).item()

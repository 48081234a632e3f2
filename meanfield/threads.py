"""One thread for many small matrix products: sharing them out costs several times what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the linear algebra of numpy to one thread; what was set before comes back.

    Yields:
        Nothing.

    Example:
        >>> with one_thread():
        ...     pass
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield

"""Gram matrices of tokens, and inner products between them: norms of gradients that are never formed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import get_blas_funcs

from empirical.backend import TorchBackend
from meanfield.weight_free.backend import Array

HALF_FROM = 128  # tokens from which half of the entries take less time than all; a quarter less, then a third


@dataclass(frozen=True, slots=True)
class Gram:
    """X X^T of the tokens X of each seed.

    Args:
        entries: (seeds, T, T).
        half: Whether the entries above the diagonal are left out, and zero.
    """

    entries: Array
    half: bool = False

    def inner(self, other: Gram) -> Array:
        """Take <K, H>, the sum of products of entries, (seeds,); H of as many tokens."""
        whole = torch.linalg.vecdot(self.entries.flatten(1), other.entries.flatten(1))
        return whole if not self.half else 2 * whole - torch.linalg.vecdot(_diagonal(self), _diagonal(other))

    def total(self) -> Array:
        """Sum all entries, (seeds,): the square norm of the sum of tokens."""
        whole = self.entries.sum((1, 2))
        return whole if not self.half else 2 * whole - self.trace()

    def trace(self) -> Array:
        """Sum the diagonal, (seeds,): the sum of the tokens' square norms."""
        return _diagonal(self).sum(1)


def gram(x: Array, backend: TorchBackend) -> Gram:
    """Multiply tokens by themselves, X X^T.

    Args:
        x: Tokens (seeds, T, d).
        backend: Where they are.

    Returns:
        Their Gram matrices; of many tokens, on the host, half of each by BLAS's ``syrk``.

    Example:
        >>> x = torch.ones(1, 2, 3)
        >>> K = gram(x, TorchBackend("float32", "cpu"))
        >>> K.inner(K).item(), K.total().item(), K.trace().item()
        (36.0, 12.0, 6.0)
    """
    if not halves(x.shape[1], backend):
        return Gram(backend.matmul(x, x.transpose(1, 2)))
    tokens = x.numpy()
    out = np.zeros((len(tokens), tokens.shape[1], tokens.shape[1]), tokens.dtype)
    (syrk,) = get_blas_funcs(("syrk",), (tokens,))
    for own, place in zip(tokens, out, strict=True):
        syrk(
            1.0, own.T, trans=1, c=place.T, overwrite_c=1
        )  # BLAS counts columns first: its upper is our lower
    return Gram(torch.from_numpy(out), half=True)


def halves(tokens: int, backend: TorchBackend) -> bool:
    """Tell whether `gram` computes half of the entries of so many tokens."""
    return tokens >= HALF_FROM and not backend.remote


def _diagonal(of: Gram) -> Array:
    return of.entries.diagonal(dim1=1, dim2=2)

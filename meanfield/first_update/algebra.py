"""Products and functions of kernels as T x T matrices, in both layouts.

An exchangeable kernel has three eigenspaces: what all tokens share, what a sequence differs by, and what a
token differs by from its sequence. Products act on eigenvalues; nothing of size T x T is made.
"""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meanfield.given import gram_root
from meanfield.moments.state import Exchangeable, Kernel, Layout

Rows: TypeAlias = npt.NDArray[np.float64]
"""One number per token, (draws, T)."""


def _dimensions(layout: Exchangeable) -> Kernel:
    total, batch = layout.total, layout.batch
    return np.array([1.0, batch - 1.0, total - batch])


def _eigenvalues(kernel: Kernel, layout: Exchangeable) -> Kernel:
    n, total = layout.tokens, layout.total
    own, within, across = kernel
    sequence = own + (n - 1) * within
    values = np.array([sequence + (total - n) * across, sequence - n * across, own - within])
    return np.where(_dimensions(layout) > 0, values, 0.0)


def _kernel(values: Kernel, layout: Exchangeable) -> Kernel:
    n, total = layout.tokens, layout.total
    own = float(_dimensions(layout) @ values) / total
    within = own - values[2]
    return np.array([own, within, (own + (n - 1) * within - values[1]) / n])


def multiply(layout: Layout, *kernels: Kernel) -> Kernel:
    """Multiply kernels as T x T matrices.

    Args:
        layout: Their layout.
        kernels: The factors, from left to right.

    Returns:
        The product.

    Example:
        >>> two = Exchangeable(tokens=2, batch=1)
        >>> multiply(two, np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0]))[:2].tolist()
        [2.0, 2.0]
    """
    if isinstance(layout, Exchangeable):
        values = np.prod([_eigenvalues(kernel, layout) for kernel in kernels], axis=0)
        return _kernel(values, layout)
    return np.asarray(functools.reduce(np.matmul, kernels))


def trace(layout: Layout, kernel: Kernel) -> float:
    """Sum what every token has with itself.

    Args:
        layout: The layout.
        kernel: The kernel.

    Returns:
        The trace of the T x T matrix.
    """
    own = float(np.sum(layout.own(kernel)))
    return own * layout.total if isinstance(layout, Exchangeable) else own


def effective_rank(layout: Layout, kernel: Kernel, gradient: Kernel) -> float:
    """Compute the number of directions that a gradient sum_i x_i^T d_i has: 1 for tokens that are alike.

        r = (tr Q G)^2 / tr Q G Q G

    Args:
        layout: Layout of the tokens.
        kernel: Q of the inputs x.
        gradient: G of the gradients d.

    Returns:
        r, at least 1.

    Example:
        >>> four = Exchangeable(tokens=4, batch=1)
        >>> alike, apart = np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
        >>> effective_rank(four, alike, apart), effective_rank(four, apart, apart)
        (1.0, 4.0)
    """
    # tr (QG)^2 = sum of (QG)_ij (QG)_ji
    square = trace(layout, multiply(layout, kernel, gradient, kernel, gradient))
    rank = layout.inner(kernel, gradient) ** 2 / square if square > 0 else 1.0
    return max(rank, 1.0)  # averages of draws may leave a G that is no square by rounding


def root_share(rank: float) -> float:
    """Compute E sqrt(S) / sqrt(E S) for S a sum of r equal squares of Gaussians.

        sqrt(2/r) Gamma((r + 1)/2) / Gamma(r/2): sqrt(2/pi) for r = 1, to 1 as r grows

    Args:
        rank: r; it need not be whole. For unequal squares, their effective number.

    Returns:
        The share.

    Assumes:
        Unequal squares act as r equal ones, which have the same first two moments: within 2 %.

    Source:
        definition; the moments of the chi distribution.

    Example:
        >>> round(root_share(1.0) ** 2 * math.pi / 2, 12)
        1.0
    """
    return math.sqrt(2 / rank) * math.exp(math.lgamma((rank + 1) / 2) - math.lgamma(rank / 2))


def leaning(layout: Layout, kernel: Kernel, gradient: Kernel) -> Kernel:
    """Compute how far the signs of a gradient lean the same way as a token's own input.

        E[Q d d^T Q / (d^T Q d)], d ~ N(0, G), by Q G (tau + 2 Q G)^-1 Q, tau = tr Q G, scaled to its trace

    Args:
        layout: Layout of the tokens.
        kernel: Q of the inputs.
        gradient: G of the gradients.

    Returns:
        The kernel; Q itself where all tokens are alike, Q/T where nothing is shared.

    Assumes:
        E z_k^2 / S, z_k^2 one of the Gaussian squares in S, as its bound 1 / E(S + lambda_k chi^2_2): exact
        where squares are equal or but one. Otherwise a part of the trace is at most 0.11 of the whole off:
        one large square beside many that add up to a 25th of it (0.89 in place of 0.78).

    Source:
        definition; z^2 weighs a chi-square with 1 degree of freedom into one with 3.

    Example:
        >>> four = Exchangeable(tokens=4, batch=1)
        >>> apart = np.array([1.0, 0.0, 0.0])
        >>> leaning(four, apart, apart)[:2].tolist()
        [0.25, 0.0]
    """
    tau = layout.inner(kernel, gradient)
    if isinstance(layout, Exchangeable):
        q, g = _eigenvalues(kernel, layout), _eigenvalues(gradient, layout)
        weight = g / (tau + 2 * q * g)
        return _kernel(q * weight * q / float(_dimensions(layout) @ (q * weight)), layout)
    both = kernel @ gradient
    # Q G (tau + 2 Q G)^-1 = (tau + 2 Q G)^-1 Q G
    weighted = np.linalg.solve(tau * np.eye(len(both)) + 2 * both, both)
    return np.asarray(weighted @ kernel / np.trace(weighted))


def normal(layout: Layout, kernel: Kernel, draws: int, rng: np.random.Generator) -> Rows:
    """Draw Gaussian coordinates of all tokens.

    Args:
        layout: Layout of the tokens.
        kernel: Their covariance.
        draws: How many.
        rng: The generator.

    Returns:
        (draws, T).
    """
    z = rng.standard_normal((draws, layout.total))
    if not isinstance(layout, Exchangeable):
        return np.asarray(z @ gram_root(kernel).T)
    return _spread(z, np.sqrt(np.maximum(_eigenvalues(kernel, layout), 0.0)), layout)


def _spread(x: Rows, values: Kernel, layout: Exchangeable) -> Rows:
    """Multiply each row by the T x T matrix with these eigenvalues."""
    common, sequence, own = values
    by_sequence = x.reshape(len(x), layout.batch, layout.tokens).mean(axis=2)
    shared = (sequence - own) * by_sequence + (common - sequence) * x.mean(axis=1, keepdims=True)
    return np.asarray(own * x + np.repeat(shared, layout.tokens, axis=1))


def times(layout: Layout, x: Rows, kernel: Kernel) -> Rows:
    """Multiply each row by a kernel.

    Args:
        layout: Layout of the tokens.
        x: (draws, T).
        kernel: The kernel.

    Returns:
        (draws, T).
    """
    if isinstance(layout, Exchangeable):
        return _spread(x, _eigenvalues(kernel, layout), layout)
    return np.asarray(x @ kernel)


def average(layout: Layout, x: Rows, y: Rows) -> Kernel:
    """Average products of tokens over draws: K_ij = mean of x_i y_j, symmetric.

    Args:
        layout: Layout of the tokens.
        x: (draws, T).
        y: (draws, T).

    Returns:
        The kernel.
    """
    if not isinstance(layout, Exchangeable):
        products = x.T @ y / len(x)
        return np.asarray((products + products.T) / 2)
    x, y = (rows.reshape(len(rows), layout.batch, layout.tokens) for rows in (x, y))
    of_sequences = float(np.einsum("dbi,dbj->", x, y, optimize=True))
    own, total = float((x * y).sum()), float(x.sum(axis=(1, 2)) @ y.sum(axis=(1, 2)))
    sums = np.array([own, of_sequences - own, total - of_sequences]) / len(x)
    return np.divide(sums, layout.counts, out=np.zeros(3), where=layout.counts > 0)


def within_sequences(layout: Layout, kernel: Kernel) -> Kernel:
    """Keep what tokens of one sequence share.

    Args:
        layout: The layout.
        kernel: The kernel.

    Returns:
        The kernel, 0 between sequences.
    """
    if isinstance(layout, Exchangeable):
        return kernel * np.array([1.0, 1.0, 0.0])
    sequence = np.arange(layout.total) // layout.tokens
    return np.where(sequence[:, None] == sequence[None, :], kernel, 0.0)

"""Kernels of tokens, second moments between all pairs, and the two layouts in which they are stored.

Where tokens of a sequence are exchangeable, and sequences of a batch too, a T x T kernel has three values: a
token with itself, two tokens of one sequence, two tokens of different sequences. Otherwise it is the T x T
matrix. Rules that act on each pair alone see an array of pairs and do not ask which layout it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from meanfield.errors import InputError
from meanfield.ops import Op

if TYPE_CHECKING:
    from collections.abc import Iterator

Kernel: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exchangeable:
    """The layout (own, within, across) of a kernel of ``batch`` sequences of ``tokens`` exchangeable tokens.

    Args:
        tokens: Tokens in a sequence, n.
        batch: Sequences, B.
    """

    tokens: int
    batch: int

    @property
    def total(self) -> int:
        """T = B n, the number of tokens in all."""
        return self.tokens * self.batch

    @property
    def counts(self) -> Kernel:
        """How many ordered pairs each value stands for; sums to T^2."""
        n, total = self.tokens, self.total
        return np.array([total, total * (n - 1), total * (total - n)], dtype=np.float64)

    def own(self, kernel: Kernel) -> Kernel:
        """Second moment of every token: one value, the same for all.

        Args:
            kernel: Values (own, within, across).

        Returns:
            The value of a token with itself.
        """
        return kernel[..., 0]

    def pair(self, values: npt.ArrayLike) -> tuple[Any, Any]:
        """One value per token, seen by the first and by the second token of each pair.

        Args:
            values: One value, the same for all tokens.

        Returns:
            Two values that broadcast against a kernel.
        """
        return values, values

    def swap(self, kernel: Kernel) -> Kernel:
        """Exchange the two tokens of each pair: nothing to do.

        Args:
            kernel: Values (own, within, across).

        Returns:
            The same.
        """
        return kernel

    def raise_own(self, kernel: Kernel, factor: float) -> Kernel:
        """Multiply what a token has with itself, and nothing else.

        Args:
            kernel: Values (own, within, across).
            factor: The factor.

        Returns:
            The new values.
        """
        return kernel * np.array([factor, 1.0, 1.0])

    def sum(self, kernel: Kernel) -> float:
        """Sum of K_ij over all ordered pairs of tokens.

        Args:
            kernel: Values (own, within, across).

        Returns:
            The sum.
        """
        return float(self.counts @ kernel)

    def inner(self, kernel: Kernel, gradient: Kernel) -> float:
        """Sum of K_ij G_ij over all ordered pairs of tokens.

        Args:
            kernel: Forward values.
            gradient: Backward values.

        Returns:
            The sum.

        Example:
            >>> Exchangeable(tokens=2, batch=1).inner(np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0]))
            3.0
        """
        return float(self.counts @ (kernel * gradient))


@dataclass(frozen=True, slots=True, eq=False)
class Gram:
    """The layout of a full T x T kernel; tokens are ordered sequence by sequence.

    Args:
        tokens: Tokens in a sequence, n.
        batch: Sequences, B.
        padding: (batch, tokens), True where a token is real; None where all are.
        memory: Layout of the encoder's output, which cross-attention reads; None without one.
        memory_kernel: Its kernel.
        streams: Gives every attention op that samples a stream of random numbers of its own.
        errors: Collects the relative standard errors of sampled averages.

    Raises:
        InputError: If the padding has another shape, or a sequence has no real token.
    """

    tokens: int
    batch: int
    padding: npt.NDArray[np.bool_] | None = None
    memory: Gram | None = None
    memory_kernel: Kernel | None = None
    # Every attention op draws its scores from a stream of its own: errors of layers then do not add up.
    streams: Iterator[int] = field(default_factory=count)
    errors: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.padding is None:
            return
        if self.padding.shape != (self.batch, self.tokens):
            raise InputError(
                f"padding has shape {self.padding.shape}: give (batch, tokens), ({self.batch}, {self.tokens})"
            )
        if not self.padding.any(axis=1).all():
            empty = int(np.argmin(self.padding.any(axis=1)))
            raise InputError(
                f"padding leaves sequence {empty} without a token: keep at least one True per row"
            )

    @property
    def total(self) -> int:
        """T = B n, the number of tokens in all, padding included."""
        return self.tokens * self.batch

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """Which of the T tokens are real, in one row."""
        return np.ones(self.total, dtype=bool) if self.padding is None else self.padding.reshape(-1)

    def own(self, kernel: Kernel) -> Kernel:
        """Second moment of every token.

        Args:
            kernel: T x T, or a stack of such.

        Returns:
            The diagonal.
        """
        return np.diagonal(kernel, axis1=-2, axis2=-1)

    def pair(self, values: npt.ArrayLike) -> tuple[Any, Any]:
        """One value per token, seen by the first and by the second token of each pair.

        Args:
            values: T values, or one for all.

        Returns:
            Two arrays that broadcast against a kernel.
        """
        each = np.broadcast_to(np.asarray(values, dtype=np.float64), (self.total,))
        return each[:, None], each[None, :]

    def swap(self, kernel: Kernel) -> Kernel:
        """Exchange the two tokens of each pair.

        Args:
            kernel: T x T.

        Returns:
            The transpose.
        """
        return kernel.T

    def raise_own(self, kernel: Kernel, factor: float) -> Kernel:
        """Multiply what a token has with itself, and nothing else.

        Args:
            kernel: T x T.
            factor: The factor.

        Returns:
            The new kernel.
        """
        return np.where(np.eye(self.total, dtype=bool), factor * kernel, kernel)

    def sum(self, kernel: Kernel) -> float:
        """Sum of K_ij over all ordered pairs of tokens.

        Args:
            kernel: T x T.

        Returns:
            The sum.
        """
        return float(kernel.sum())

    def inner(self, kernel: Kernel, gradient: Kernel) -> float:
        """Sum of K_ij G_ij over all ordered pairs of tokens.

        Args:
            kernel: Forward.
            gradient: Backward.

        Returns:
            The sum.

        Example:
            >>> Gram(tokens=2, batch=1).inner(np.array([[1.0, 0.5], [0.5, 1.0]]), np.ones((2, 2)))
            3.0
        """
        return float(np.vdot(kernel, gradient))

    def expand(self, values: Kernel) -> Kernel:
        """Write the three values of an exchangeable kernel out as a T x T matrix.

        Args:
            values: (own, within, across).

        Returns:
            The matrix.

        Example:
            >>> Gram(tokens=1, batch=2).expand(np.array([1.0, 0.5, 0.25])).tolist()
            [[1.0, 0.25], [0.25, 1.0]]
        """
        own, within, across = values
        sequence = np.arange(self.total) // self.tokens
        kernel = np.where(sequence[:, None] == sequence[None, :], within, across)
        np.fill_diagonal(kernel, own)
        return kernel

    def contract(self, kernel: Kernel) -> Kernel | None:
        """Find the three values of a T x T matrix that is exchangeable.

        Args:
            kernel: T x T.

        Returns:
            (own, within, across), or None where the matrix has more than three values.
        """
        # Without a pair of its kind the value is of no account; the mean over no pair would be NaN.
        last = self.total - 1
        values = np.array([
            kernel[0, 0],
            kernel[0, 1] if self.tokens > 1 else 0.0,
            kernel[0, last] if self.batch > 1 else 0.0,
        ])
        rounding = 1e-12 * float(np.max(np.abs(kernel)))
        return values if np.allclose(kernel, self.expand(values), rtol=0, atol=rounding) else None


Layout: TypeAlias = Exchangeable | Gram


@dataclass(frozen=True, slots=True)
class Step:
    """One op of the forward pass with its kernels; backward walks the same tree.

    Args:
        op: The op.
        before: Kernel of its input, per coordinate.
        after: Kernel of its output, per coordinate.
        inner: Steps of the ops inside it, by their role and in order.
        weights: What is known of the attention weights, for attention.
        mean: Mean over the coordinates of the output, one number per token or one for all.
    """

    op: Op
    before: Kernel
    after: Kernel
    inner: Mapping[str, Step] = field(default_factory=dict)
    weights: Any = None
    mean: Any = 0.0

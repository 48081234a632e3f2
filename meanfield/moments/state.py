"""Kernels of tokens: second moments between all pairs, stored once per kind of pair.

Tokens of one sequence are exchangeable, and so are sequences of one batch. A T x T kernel then has three
values: a token with itself, two tokens of one sequence, two tokens of different sequences. Rules that act on
each pair alone see an array of pairs and do not ask how many there are; a full T x T kernel fits them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meanfield.ops import Op

Kernel = npt.NDArray[np.float64]


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

    def own(self, kernel: Kernel) -> np.float64:
        """Second moment of a token, the same for all.

        Args:
            kernel: Values (own, within, across).

        Returns:
            The value of a token with itself.
        """
        return np.float64(kernel[0])

    def mix(self, kernel: Kernel) -> Kernel:
        """Kernel after each token is replaced by the mean of its sequence: P K P, P the averaging projection.

        The backward pass of that mean is the same map, since P is symmetric.

        Args:
            kernel: Values (own, within, across).

        Returns:
            The mixed values; own and within become (own + (n - 1) within)/n.

        Example:
            >>> Exchangeable(tokens=4, batch=1).mix(np.array([1.0, 0.0, 0.0])).tolist()
            [0.25, 0.25, 0.0]
        """
        mean = (kernel[0] + (self.tokens - 1) * kernel[1]) / self.tokens
        return np.array([mean, mean, kernel[2]])

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


@dataclass(frozen=True, slots=True)
class Step:
    """One op of the forward pass with its kernels; backward walks the same tree.

    Args:
        op: The op.
        before: Kernel of its input, per coordinate.
        after: Kernel of its output, per coordinate.
        inner: Steps of the ops inside it, by their role and in order.
    """

    op: Op
    before: Kernel
    after: Kernel
    inner: Mapping[str, Step] = field(default_factory=dict)

"""Attention weights and what they do to kernels of values, scores and gradients.

The weights of an attention op are one of three things: a matrix that is known (uniform attention), the
averages of a softmax over exchangeable tokens (`ExchangeableSoftmax`), or draws of a head's scores
(`meanfield.moments.sampled`). Each of them mixes values, sends gradients back through the mixing, and finds
the gradients of queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from meanfield.errors import InputError
from meanfield.gaussian.softmax import SoftmaxMoments, softmax_moments
from meanfield.moments.masks import block_diagonal, visible
from meanfield.moments.sampled import SampledSoftmax
from meanfield.moments.state import Exchangeable, Gram, Kernel, Layout
from meanfield.ops import Attention


class Weights(Protocol):
    """What a layer needs to know of the attention weights A."""

    def mix(self, value: Kernel) -> Kernel:
        """Kernel of the mixed values, E[A K A^T]."""
        ...

    def back(
        self, query: Kernel, key: Kernel, value: Kernel, gradient: Kernel
    ) -> tuple[Kernel, Kernel, Kernel]:
        """Gradient kernels of values, queries and keys from that of the mixed values."""
        ...


def attention_weights(op: Attention, query: Kernel | None, key: Kernel | None, layout: Layout) -> Weights:
    """Find what is known of the weights of an attention op.

    Args:
        op: The op.
        query: Kernel of the queries, per coordinate; None for uniform attention.
        key: The same of the keys.
        layout: Layout of the tokens that ask.

    Returns:
        The weights.

    Raises:
        InputError: If the op is masked or crosses and the layout knows no order of tokens.
    """
    if isinstance(layout, Exchangeable):
        if op.masked or op.cross or op.rotary or op.relative_bias or op.alibi or op.softcap:
            raise InputError(
                "masks, positions, cross-attention and capped scores need the T x T layout: use Gram in "
                "place of Exchangeable"
            )
        if query is None or key is None:
            return ExchangeableSoftmax.uniform(layout, float(op.dropout))
        return ExchangeableSoftmax.of(op, query, key, layout)
    if query is None or key is None:
        return FixedWeights.uniform(op, layout)
    return SampledSoftmax.of(op, query, key, layout)


@dataclass(frozen=True, slots=True)
class ExchangeableSoftmax:
    """Averages of softmax weights over exchangeable tokens.

    At infinite head size the scores of a head are Gaussian given the token kernel, S = scale q k^T with
    cov(S_ij, S_kl) = scale^2 d_k Kq_ik Kk_jl. A part that a row of scores has in common drops out of the
    softmax, so only the variance that differs from key to key counts. Rows of two sequences share nothing
    else: across sequences attention acts like the plain mean.

    Args:
        layout: How many tokens and sequences there are.
        averages: Moments of two rows of weights.
        scale_sq: Square of the score scale, summed over the d_k coordinates of a head.
        dropped: rate / (1 - rate) of the dropout on weights.
    """

    layout: Exchangeable
    averages: SoftmaxMoments
    scale_sq: float
    dropped: float

    @classmethod
    def uniform(cls, layout: Exchangeable, rate: float) -> ExchangeableSoftmax:
        """Weights 1/n.

        Args:
            layout: How many tokens and sequences there are.
            rate: Dropout on the weights.

        Returns:
            The averages.
        """
        return cls(layout, softmax_moments(layout.tokens, 0.0, 0.0), 0.0, rate / (1 - rate))

    @classmethod
    def of(cls, op: Attention, query: Kernel, key: Kernel, layout: Exchangeable) -> ExchangeableSoftmax:
        """Average the weights of one head: they depend on queries and keys by two numbers.

            variance = scale^2 d_k Kq_own (Kk_own - Kk_within),  correlation of two rows = Kq_within / Kq_own

        Args:
            op: Softmax attention.
            query: Kernel of the queries (own, within, across).
            key: Kernel of the keys.
            layout: How many tokens and sequences there are.

        Returns:
            The averages.

        Assumes:
            Head size to infinity.

        Source:
            vaswani2017, Eq. (1); hron2020 (Gaussian scores at infinite head size).
        """
        own, within = float(query[0]), float(query[1])
        correlation = within / own if own > 0 else 0.0  # W_Q = 0, the paper's case: all scores are equal
        # Rounding may leave identical tokens a difference of the wrong sign.
        differing = max(float(key[0] - key[1]), 0.0)
        scale_sq = float(op.score_scale) ** 2 * op.head_size
        averages = softmax_moments(layout.tokens, scale_sq * own * differing, correlation)
        return cls(layout, averages, scale_sq, float(op.dropout) / (1 - float(op.dropout)))

    def mix(self, value: Kernel) -> Kernel:
        """Kernel of the mixed values, E[A K A^T].

            own: Kw + (Ko - Kw) E sum_j a_j^2,  within: Kw + (Ko - Kw) E sum_j a_j a'_j,  across: kept

        Args:
            value: Values (own, within, across).

        Returns:
            The mixed values.

        Source:
            vaswani2017, Eq. (1).

        Example:
            >>> uniform = ExchangeableSoftmax.uniform(Exchangeable(tokens=4, batch=1), rate=0.0)
            >>> uniform.mix(np.array([1.0, 0.0, 0.0])).tolist()
            [0.25, 0.25, 0.0]
        """
        own, within, across = value
        spread = own - within
        p, pair = self.averages.overlap, self.averages.overlap_pair
        return np.array([within + spread * p + self.dropped * p * own, within + spread * pair, across])

    def mix_back(self, gradient: Kernel) -> Kernel:
        """Gradient kernel before the mixing, E[A^T G A].

            own: Go p + (n-1) Gw p',  within: Go (1-p)/(n-1) + Gw (1-p'),  p, p' the two overlaps

        Args:
            gradient: Values (own, within, across) after it.

        Returns:
            The values before it.

        Source:
            vaswani2017, Eq. (1).

        Example:
            >>> uniform = ExchangeableSoftmax.uniform(Exchangeable(tokens=4, batch=1), rate=0.0)
            >>> uniform.mix_back(np.array([1.0, 0.0, 0.0])).tolist()
            [0.25, 0.25, 0.0]
        """
        n = self.layout.tokens
        own, within, across = gradient
        p, pair = self.averages.overlap, self.averages.overlap_pair
        between = own * (1 - p) / (n - 1) + within * (1 - pair) if n > 1 else 0.0
        return np.array([own * p * (1 + self.dropped) + (n - 1) * within * pair, between, across])

    def score_gradients(
        self, query: Kernel, key: Kernel, value: Kernel, gradient: Kernel
    ) -> tuple[Kernel, Kernel]:
        """Gradient kernels of queries and keys, summed over the coordinates of all heads.

            dS_ij = a_ij (y_ij - sum_l a_il y_il),  y Gaussian with covariance G_ik Kv_jl / heads

        Rows of dS sum to zero: only what differs from key to key of Kv and Kk is seen, pairs of two sequences
        see nothing, and two keys of a sequence share -1/(n-1) of what one has.

        Args:
            query: Kernel of the queries, per coordinate.
            key: Kernel of the keys.
            value: Kernel of the values.
            gradient: Gradient kernel of the mixed values, summed over coordinates.

        Returns:
            The gradient kernel of the queries, and that of the keys.

        Assumes:
            Width and head size to infinity.

        Source:
            vaswani2017, Eq. (1), differentiated.
        """
        n = self.layout.tokens
        spread = value[0] - value[1]
        # E sum_j dS_ij dS_kj of one row with itself and of two rows, all heads together; weights are dropped
        # for each row by itself, so dropout adds white noise to the first alone.
        slopes = np.array([
            self.averages.slope * (spread + self.dropped * value[0]),
            self.averages.slope_pair * spread,
            0.0,
        ])
        scores = self.scale_sq * slopes * gradient
        of_query = (key[0] - key[1]) * scores
        own = query[0] * scores[0] + (n - 1) * query[1] * scores[1]
        of_key = np.array([own, -own / (n - 1) if n > 1 else 0.0, 0.0])
        return of_query, of_key

    def back(
        self, query: Kernel, key: Kernel, value: Kernel, gradient: Kernel
    ) -> tuple[Kernel, Kernel, Kernel]:
        """Gradient kernels of values, queries and keys: `mix_back` and `score_gradients` together.

        Args:
            query: Kernel of the queries, per coordinate.
            key: Kernel of the keys.
            value: Kernel of the values.
            gradient: Gradient kernel of the mixed values, summed over coordinates.

        Returns:
            The three kernels.
        """
        return self.mix_back(gradient), *self.score_gradients(query, key, value, gradient)


@dataclass(frozen=True, slots=True)
class FixedWeights:
    """Weights that are known: equal shares of what a token sees.

    Args:
        matrix: A, of shape (T, source T).
        dropped: rate / (1 - rate) of the dropout on weights.
    """

    matrix: Kernel
    dropped: float

    @classmethod
    def uniform(cls, op: Attention, layout: Gram) -> FixedWeights:
        """Equal weights on all that is visible.

        Args:
            op: Uniform attention.
            layout: Layout of the tokens that ask.

        Returns:
            The weights.
        """
        seen = visible(op, layout).astype(np.float64)
        rate = float(op.dropout)
        return cls(block_diagonal(seen / seen.sum(axis=-1, keepdims=True)), rate / (1 - rate))

    def mix(self, value: Kernel) -> Kernel:
        """Kernel of the mixed values, A K A^T, and what dropout adds to the diagonal."""
        mixed = self.matrix @ value @ self.matrix.T
        return mixed + np.diag(self.dropped * (self.matrix**2 @ np.diagonal(value)))

    def back(
        self, query: Kernel, key: Kernel, value: Kernel, gradient: Kernel
    ) -> tuple[Kernel, Kernel, Kernel]:
        """A^T G A with what dropout adds to the diagonal; queries and keys get nothing without scores."""
        mixed = self.matrix.T @ gradient @ self.matrix
        mixed += np.diag(self.dropped * (np.diagonal(gradient) @ self.matrix**2))
        return mixed, np.zeros_like(gradient), np.zeros_like(value)

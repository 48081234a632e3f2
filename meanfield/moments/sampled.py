"""Softmax attention over tokens that differ: averages over drawn queries and keys of one head.

Queries and keys of a head are Gaussian given the token kernels, q = R_q Z with R_q R_q^T = K_q, at the head's
real size; an average over heads is an average over draws. What is Gaussian given the weights, values and
incoming gradients, is averaged in closed form. Draws come in antithetic pairs (q, k), (-q, k) from a fixed
seed, and their number grows until the standard error is small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from meanfield.moments.control import Controlled
from meanfield.moments.draw import Draw, Draws, diagonal, key_form, query_form
from meanfield.moments.heads import Heads, normed_kernel
from meanfield.moments.masks import bucket
from meanfield.moments.rotary import planes
from meanfield.moments.state import Gram, Kernel
from meanfield.ops import Attention

TARGET = 1e-3
"""Relative standard error at which drawing stops: 95 % of averages are then within 0.2 %."""

_FEWEST = 10


@dataclass(frozen=True, slots=True, eq=False)
class SampledSoftmax:
    """Weights of one head, drawn again from its seed for the way back.

    Args:
        op: The attention op.
        heads: What the draws are made of.
        layout: Layout of the tokens that ask; collects the errors.
        kept: What the way forth has found for the way back.
    """

    op: Attention
    heads: Heads
    layout: Gram
    kept: dict[str, Kernel] = field(default_factory=dict)

    @classmethod
    def of(cls, op: Attention, query: Kernel, key: Kernel, layout: Gram) -> SampledSoftmax:
        """Prepare to draw.

        Args:
            op: Softmax attention.
            query: Kernel of the queries before their norm, per coordinate.
            key: The same of the keys.
            layout: Layout of the tokens that ask.

        Returns:
            The weights.

        Source:
            vaswani2017, Eq. (1); hron2020 (queries and keys are Gaussian given the token kernel).
        """
        return cls(op, Heads.of(op, query, key, layout), layout)

    def mix(self, value: Kernel) -> Kernel:
        """Kernel of the mixed values, E[A K A^T], and what dropout adds to the diagonal.

        The same draws give what the gradient of the queries will be multiplied by.

        Args:
            value: Kernel of the values, (source T, source T).

        Returns:
            T x T.
        """
        V, unit = _normalised(value)
        white = np.diag(np.diagonal(V))
        same = np.eye(self.layout.total, dtype=bool)
        dropped, turning = self._dropped(), self._turning()
        Kk = (self.op.head_size * normed_kernel(self.heads.keys, self.op.key_norm)).astype(np.float32)

        def mixed(draw: Draw) -> Draws:
            found = draw.across(draw.left(draw.A, V), draw.A)
            return found + dropped * diagonal(draw.left(draw.A**2, np.diagonal(V)[:, None])[..., 0])

        def of_query(draw: Draw) -> Draws:
            inner = draw.gram(draw.k)
            found = query_form(draw, draw.outer, V, inner)
            if dropped:
                found = np.where(same, found + dropped * query_form(draw, draw.outer, white, inner), found)
            if turning:  # two queries at different positions have turned by different angles
                few = draw.first()  # what different tokens share is small, and complex forms are dear
                forms = [p * query_form(few, few.turned(angle), V, Kk).real for p, angle in turning]
                found = np.where(same, found, np.sum(forms, axis=0).mean(axis=0))
            return found

        flat = self.heads.flat()
        controls = (
            key_form(flat, flat.outer, V, np.eye(len(self.heads.queries), dtype=np.float32)).mean(axis=0),
            np.where(same, query_form(flat, flat.outer, V, Kk).mean(axis=0), np.float32(0)),
        )
        mean, form = self._mean(controls, mixed, of_query)
        self.kept["query_form"] = unit * form
        # Single precision may leave identical tokens a correlation beyond 1.
        size = np.sqrt(np.diagonal(mean))
        largest = size[:, None] * size[None, :]
        return unit * np.clip((mean + mean.T) / 2, -largest, largest)

    def back(
        self, query: Kernel, key: Kernel, value: Kernel, gradient: Kernel
    ) -> tuple[Kernel, Kernel, Kernel]:
        """Gradient kernels of values, queries and keys, summed over the coordinates of all heads.

            E[A^T G A];  dS_ij = a_ij (y_ij - sum_l a_il y_il),  cov(y_ij, y_kl) = G_ik Kv_jl over all heads
            <dq_i, dq_l> = scale^2 sum_jm dS_ij dS_lm <k_j, k_m>,  and the same for keys

        The average over y is exact given the draw: with C(i, l) = Kv - (A Kv)_i - (A Kv)_l + (A Kv A^T)_il,
        E_y dS_ij dS_lm = a_ij a_lm G_il C_jm(i, l).

        Args:
            query: Kernel of the queries after their norm, per coordinate.
            key: The same of the keys.
            value: Kernel of the values.
            gradient: Gradient kernel of the mixed values, summed over coordinates.

        Returns:
            The gradient kernels of values, (source T, source T), queries, T x T, and keys.

        Assumes:
            Width to infinity, with as many heads as it takes; the head size is the real one. A norm on
            queries and keys loses the O(1/head size) projection of its Jacobian.

        Source:
            vaswani2017, Eq. (1), differentiated; su2021 for rotary positions.
        """
        V, unit_v = _normalised(value)
        G, unit_g = _normalised(gradient)
        white = np.diag(np.diagonal(V))
        same_query, same_key = (
            np.eye(len(root), dtype=bool) for root in (self.heads.queries, self.heads.keys)
        )
        dropped, turning = self._dropped(), self._turning()
        expected = (self.op.head_size * G * query).astype(np.float32)

        def of_value(draw: Draw) -> Draws:
            found = draw.down(draw.A, draw.down(draw.A, G).swapaxes(-1, -2))
            return found + dropped * diagonal(draw.down(draw.A**2, np.diagonal(G)[:, None])[..., 0])

        def of_key(draw: Draw) -> Draws:
            W = G * draw.gram(draw.q)
            found = key_form(draw, draw.outer, V, W)
            if dropped:
                own = np.where(same_query, W, np.float32(0))
                found = found + dropped * key_form(draw, draw.outer, white, own)
            if turning:
                few = draw.first()
                forms = [p * key_form(few, few.turned(angle), V, expected).real for p, angle in turning]
                found = np.where(same_key, found, np.sum(forms, axis=0).mean(axis=0))
            return found

        flat = self.heads.flat()
        controls = (
            np.where(same_key, key_form(flat, flat.outer, V, expected).mean(axis=0), np.float32(0)),
            G * query_form(flat, flat.outer, V, np.eye(len(self.heads.keys), dtype=np.float32)).mean(axis=0),
        )
        of_values, of_keys = self._mean(controls, of_value, of_key)
        scale_sq = float(self.op.score_scale) ** 2
        of_queries = scale_sq * gradient * self.kept["query_form"]
        return unit_g * of_values, of_queries, scale_sq * unit_v * unit_g * of_keys

    def bias_gradient(self, value: Kernel, gradient: Kernel) -> float:
        """E||dL/db||^2 of the table of relative positions: dL/db sums dS over a bucket's pairs.

        Args:
            value: Kernel of the values.
            gradient: Gradient kernel of the mixed values, summed over coordinates.

        Returns:
            The mean square gradient norm.

        Source:
            raffel2020, Sec. 2.1.
        """
        assert self.op.relative_bias is not None
        V, unit_v = _normalised(value)
        G, unit_g = _normalised(gradient)
        buckets = bucket(self.op.relative_bias, self.layout.tokens)
        ones = np.ones_like(V)

        def average(draw: Draw) -> Draws:
            found = np.zeros((1, 1), dtype=np.float32)
            for b in np.unique(buckets):
                form = query_form(draw, draw.outer * (buckets == b), V, ones)
                found = found + (G * form).sum(axis=(-1, -2))[..., None, None]
            return np.asarray(found, dtype=np.float32)

        controls = (
            np.eye(len(self.heads.keys), dtype=np.float32),
            np.eye(len(self.heads.queries), dtype=np.float32),
        )
        return float(unit_v * unit_g * self._mean(controls, average)[0][0, 0])

    def _turning(self) -> list[tuple[float, float]]:
        """Groups of rotary planes over the longest distance between two pairs."""
        return planes(self.op, 2 * max(self.heads.seen.shape[1:]))

    def _dropped(self) -> np.float32:
        """Variance that dropout adds to a weight of 1: rate / (1 - rate)."""
        return np.float32(float(self.op.dropout) / (1 - float(self.op.dropout)))

    def _mean(self, forms: tuple[Draws, Draws], *averages: Callable[[Draw], Draws]) -> list[Kernel]:
        """Average functions of a draw over draws, until the trace of each has a small standard error.

        Control variates with known means take out most of the noise: two forms <k_j, k_m> N_jm and
        <q_i, q_l> N_il, the averages to leading order in the scores, and the spread of scores along rows.

        Args:
            forms: N of keys and of queries.
            averages: The functions.

        Returns:
            Their averages.
        """
        totals = [Controlled() for _ in averages]
        known = self._known(forms)
        error = np.inf
        for done, draw in enumerate(self.heads.draws(), start=1):
            # what is 0 on average is 0 in every draw: it controls nothing
            sizes = draw.sizes(self.heads.seen, *forms)
            deviation = np.divide(sizes - known, known, out=np.zeros_like(known), where=known != 0)
            for total, average in zip(totals, averages, strict=True):
                total.add(np.asarray(average(draw).mean(axis=0), dtype=np.float64), deviation)
            if done >= _FEWEST:
                error = max(total.error() for total in totals)
                if error <= TARGET:
                    break
        self.layout.errors.append(error)
        return [total.mean() for total in totals]

    def _known(self, forms: tuple[Draws, Draws]) -> Kernel:
        """Means of `Draw.sizes`."""
        query, key, seen = self.heads.expected_queries(), self.heads.expected_keys(), self.heads.seen
        batch, tokens, source = seen.shape
        shares = seen / seen.sum(axis=-1, keepdims=True)
        variance = 0.0
        for b in range(batch):
            at = slice(b * source, (b + 1) * source)
            K, share = key[at, at], shares[b]
            spread = share @ np.diagonal(K) - np.einsum("ij,jk,ik->i", share, K, share)
            own = np.diagonal(query)[b * tokens : (b + 1) * tokens] / self.op.head_size
            variance += float((own * spread / seen[b].sum(axis=-1)).sum())
        return np.array([float((key * forms[0]).sum()), float((query * forms[1]).sum()), variance])


def _normalised(kernel: Kernel) -> tuple[Draws, float]:
    """Divide by the largest entry, so that single precision neither over- nor underflows."""
    unit = float(np.max(np.abs(kernel)))
    return (kernel / unit if unit else kernel).astype(np.float32), unit

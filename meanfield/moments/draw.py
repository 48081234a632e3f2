"""Draws of one head, and the quadratic forms of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# A draw needs no more than single precision: its own error is a thousand times that.
Draws: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """A chunk of draws, each with its antithetic twin behind it.

    Args:
        A: Weights, (2 chunk, batch, tokens, source).
        outer: Weights times the slope of the soft cap.
        scores: q . k before scale and mask, without the twins.
        q: Queries as they meet the keys, (chunk, T, head size).
        k: Keys, (chunk, source T, head size).
    """

    A: Draws
    outer: Draws
    scores: Draws
    q: Draws
    k: Draws

    def gram(self, x: Draws) -> Draws:
        """Inner products of all pairs; the sign of the twin drops out."""
        inner = x @ x.swapaxes(-1, -2)
        return np.concatenate([inner, inner])

    def sizes(self, seen: npt.NDArray[np.bool_], of_keys: Draws, of_queries: Draws) -> Draws:
        """Three sums whose means are known: forms of keys and of queries, and the scores' spread along rows.

        The spread of a row is the variance of q . k over what it sees, divided by how much it sees.

        Args:
            seen: Which keys a query sees.
            of_keys: N of the form <k_j, k_m> N_jm.
            of_queries: N of the form <q_i, q_l> N_il.

        Returns:
            The sums, means over the draws.
        """
        twins = self.scores.shape[0]
        count = seen.sum(axis=-1)
        scores = np.where(seen, self.scores, np.float32(0))
        mean, square = scores.sum(axis=-1) / count, np.square(scores).sum(axis=-1) / count
        spread = ((square - mean**2) / count).sum(dtype=np.float64) / twins
        forms = [float(np.vdot(x, N @ x)) / len(x) for x, N in ((self.k, of_keys), (self.q, of_queries))]
        return np.array([*forms, spread])

    def first(self) -> Draw:
        """The first draw and its twin."""
        A, outer = (x[:: len(self.A) // 2] for x in (self.A, self.outer))
        return Draw(A, outer, self.scores[:1], self.q[:1], self.k[:1])

    def turned(self, angle: float) -> npt.NDArray[np.complex64]:
        """Outer weights times exp(i angle (query position - key position))."""
        tokens, source = self.outer.shape[-2:]
        offset = np.arange(tokens)[:, None] - np.arange(source)[None, :]
        return (self.outer * np.exp(1j * angle * offset)).astype(np.complex64)

    @staticmethod
    def left(A: Draws, K: Draws) -> Draws:
        """A K, from source tokens to tokens, for K of shape (..., source T, m)."""
        draws, batch, tokens, source = A.shape
        blocks = K.reshape(*K.shape[:-2], batch, source, K.shape[-1])
        return (A @ blocks).reshape(draws, batch * tokens, K.shape[-1])

    @staticmethod
    def down(A: Draws, K: Draws) -> Draws:
        """A^H K, from tokens to source tokens, for K of shape (..., T, m)."""
        draws, batch, tokens, source = A.shape
        blocks = K.reshape(*K.shape[:-2], batch, tokens, K.shape[-1])
        return (A.conj().swapaxes(-1, -2) @ blocks).reshape(draws, batch * source, K.shape[-1])

    def across(self, K: Draws, A: Draws) -> Draws:
        """K A^H, for K of shape (..., T, source T)."""
        return self.left(A, K.conj().swapaxes(-1, -2)).conj().swapaxes(-1, -2)


def query_form(draw: Draw, outer: Draws, V: Draws, inner: Draws) -> Draws:
    """Sum over j, m of o_ij o*_lm C_jm(i, l) inner_jm, where C uses the weights and o the outer ones."""
    AV = draw.left(draw.A, V)
    onto = draw.left(outer, inner)
    cross = draw.across(AV * onto, outer)
    direct = draw.across(draw.left(outer, V * inner), outer)
    return direct - cross - cross.conj().swapaxes(-1, -2) + draw.across(AV, draw.A) * draw.across(onto, outer)


def key_form(draw: Draw, outer: Draws, V: Draws, W: Draws) -> Draws:
    """Sum over i, l of o_ij o*_lm C_jm(i, l) W_il."""
    AV = draw.left(draw.A, V)
    # conj(o) on the right: down() conjugates, so the transposed form is built and turned.
    WO = draw.down(outer, W).conj().swapaxes(-1, -2)  # (T, source T): sum over l of W_il o_lm, W symmetric
    direct = V * draw.down(outer, WO)
    cross = draw.down(outer, AV * WO)
    mixed = W * draw.across(AV, draw.A)
    last = draw.down(outer, draw.down(outer, mixed).conj().swapaxes(-1, -2))
    return direct - cross - cross.conj().swapaxes(-1, -2) + last


def diagonal(values: Draws) -> Draws:
    """One diagonal matrix per draw."""
    return values[..., None] * np.eye(values.shape[-1], dtype=np.float32)

"""Queries and keys of one head, drawn at its real size, and the weights that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meanfield.errors import InputError, MissingRuleError
from meanfield.moments.draw import Draw, Draws
from meanfield.moments.masks import bucket, distances, visible
from meanfield.moments.rotary import angles, rotate
from meanfield.moments.state import Gram, Kernel
from meanfield.ops import Attention, Norm
from meanfield.ops import Draw as Law

_MOST = 512


def _chunk(op: Attention, total: int) -> int:
    """Draws at a time: more of them where tokens are few, so that their arrays stay of one size."""
    most = int(np.clip(4 * (128 / total) ** 2, 4, 64))
    # heads whose slopes differ are drawn equally often
    return most if op.alibi is None else -(-most // op.heads) * op.heads


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """What heads of one attention op are drawn from; an average over heads is one over draws.

    Args:
        op: The attention op.
        queries: R_q of the queries before their norm, (T, T).
        keys: R_k, (source T, source T).
        seen: Which keys a query sees, (batch, tokens, source tokens).
        stream: Seed of the draws.
    """

    op: Attention
    queries: Draws
    keys: Draws
    seen: npt.NDArray[np.bool_]
    stream: int

    @classmethod
    def of(cls, op: Attention, query: Kernel, key: Kernel, layout: Gram) -> Heads:
        """Prepare to draw.

        Args:
            op: Softmax attention.
            query: Kernel of the queries before their norm, per coordinate.
            key: The same of the keys.
            layout: Layout of the tokens that ask.

        Returns:
            The heads.

        Raises:
            MissingRuleError: If shifts of queries and of keys both have a mean.

        Source:
            vaswani2017, Eq. (1); hron2020 (queries and keys are Gaussian given the token kernel).
        """
        norms = op.query_norm, op.key_norm
        if all(norm is not None and norm.shift.mean for norm in norms):
            raise MissingRuleError(  # scores are then not symmetric, as antithetic draws have them
                f"{op.name} whose queries and keys both have shifts of a mean",
                "moments.attention",
                "give one of them shifts of mean 0",
            )
        queries, keys = (_root(kernel).astype(np.float32) for kernel in (query, key))
        return cls(op, queries, keys, visible(op, layout), next(layout.streams))

    def flat(self) -> Draw:
        """The draw without scores: equal weights on what is seen, or those of each head's slope."""
        A = self._seen(self._distances()).astype(np.float32)
        return Draw(A, A, A, self.queries[None], self.keys[None])

    def _distances(self) -> Draws:
        """Scores by distance alone, (heads or 1, 1, tokens, source tokens)."""
        _, tokens, source = self.seen.shape
        if self.op.alibi is None:
            return np.zeros((1, 1, tokens, source), dtype=np.float32)
        return distances(self.op, tokens).astype(np.float32)[:, None]

    def _seen(self, scores: Draws) -> Draws:
        """Take the softmax over what is seen."""
        scores = np.where(self.seen, scores, np.float32(-np.inf))
        scores = scores - scores.max(axis=-1, keepdims=True)
        A = np.exp(scores)
        return np.asarray(A / A.sum(axis=-1, keepdims=True))

    def expected_queries(self) -> Kernel:
        """Mean inner products of queries as they meet the keys: normed and turned by their positions."""
        return self._expected(self.queries, self.op.query_norm, self.seen.shape[1])

    def expected_keys(self) -> Kernel:
        """Mean inner products of keys as they meet the queries."""
        return self._expected(self.keys, self.op.key_norm, self.seen.shape[2])

    def _expected(self, root: Draws, norm: Norm | None, tokens: int) -> Kernel:
        kernel = self.op.head_size * normed_kernel(root, norm)
        if self.op.rotary is None:
            return kernel
        theta = angles(self.op.rotary, self.op.head_size)
        still = self.op.head_size - 2 * theta.size
        position = np.arange(len(root)) % tokens
        offset = position[:, None] - position[None, :]
        cosines = 2 * np.cos(theta * offset[..., None]).sum(axis=-1) + still
        return np.asarray(kernel * cosines / self.op.head_size)

    def _normed(self, norm: Norm | None, x: Draws, root: Draws, rng: np.random.Generator) -> Draws:
        """Apply the norm on queries or keys: exact for one per head, in the limit for one of all heads."""
        if norm is None:
            return x
        if norm.width != self.op.head_size:
            own = (root**2).sum(axis=-1)[:, None]  # (T, 1)
            x = x / np.sqrt(own + np.float32(norm.eps))
        else:
            if norm.kind == "layernorm":
                x = x - x.mean(axis=-1, keepdims=True)
            x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + np.float32(norm.eps))
        if norm.plain:
            return np.asarray(x)
        gain, shift = (_entries(law, x, rng) for law in (norm.gain, norm.shift))
        return np.asarray(gain * x + shift)

    def draws(self) -> Iterator[Draw]:
        """Draw chunks of heads, each with its antithetic twins, always the same ones.

        Yields:
            One chunk after another.
        """
        chunk = _chunk(self.op, max(len(self.queries), len(self.keys)))
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([self.stream, 0x6D66])))
        op, size = self.op, self.op.head_size
        batch, tokens, source = self.seen.shape
        hidden = np.where(self.seen, np.float32(0), np.float32(-np.inf))
        for _ in range(_MOST):
            q, k = (
                root @ rng.standard_normal((chunk, root.shape[1], size), dtype=np.float32)
                for root in (self.queries, self.keys)
            )  # (chunk, T, head size)
            q = self._normed(op.query_norm, q, self.queries, rng)
            k = self._normed(op.key_norm, k, self.keys, rng)
            q, k = rotate(op, q, tokens), rotate(op, k, source)
            split = k.reshape(chunk, batch, source, size).swapaxes(-1, -2)
            blocks = q.reshape(chunk, batch, tokens, size) @ split
            scores = np.float32(op.score_scale) * blocks  # (chunk, batch, tokens, source)
            scores = np.concatenate([scores, -scores])
            if op.relative_bias is not None:
                deviation = np.float32(float(op.relative_bias.weight.variance) ** 0.5)
                table = deviation * rng.standard_normal((chunk, op.relative_bias.buckets), dtype=np.float32)
                bias = table[:, bucket(op.relative_bias, tokens)][:, None]
                scores += np.concatenate([bias, bias])
            if op.alibi is not None:
                scores += np.tile(self._distances(), (len(scores) // op.heads, 1, 1, 1))
            slope = None
            if op.softcap is not None:
                bent = np.tanh(scores / np.float32(op.softcap))
                scores, slope = np.float32(op.softcap) * bent, 1 - bent**2
            scores += hidden
            scores -= scores.max(axis=-1, keepdims=True)
            A = np.exp(scores)
            A /= A.sum(axis=-1, keepdims=True)
            yield Draw(A, A if slope is None else A * slope, blocks, q, k)


def _entries(law: Law, x: Draws, rng: np.random.Generator) -> Draws:
    """Draw gains or shifts for all tokens of each head, (chunk, 1, head size); a number where all agree."""
    mean = np.float32(law.mean)
    if not law.variance:
        return np.asarray(mean)
    unit = rng.standard_normal((len(x), 1, x.shape[-1]), dtype=np.float32)
    return np.asarray(mean + np.float32(float(law.variance) ** 0.5) * unit)


def normed_kernel(root: Draws, norm: Norm | None) -> Kernel:
    """Compute the kernel R R^T of queries or keys, after their norm.

    Args:
        root: R.
        norm: The norm, or None.

    Returns:
        The kernel, per coordinate.
    """
    kernel = root.astype(np.float64) @ root.T.astype(np.float64)
    if norm is None:
        return kernel
    size = np.sqrt(np.diagonal(kernel) + norm.eps)
    return np.asarray(float(norm.gain_sq) * kernel / (size[:, None] * size[None, :]) + float(norm.shift_sq))


def _root(kernel: Kernel) -> Kernel:
    """Find R with R R^T = K for a positive semidefinite K, singular ones included."""
    values, vectors = np.linalg.eigh(kernel)
    if values[0] < -1e-8 * max(values[-1], 0):
        raise InputError(f"a token kernel has the negative eigenvalue {values[0]:g}: give a Gram matrix")
    return vectors * np.sqrt(np.maximum(values, 0))

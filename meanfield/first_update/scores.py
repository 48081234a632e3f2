"""What attention makes of a change of its values, queries and keys."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from meanfield.moments.attention import Weights
from meanfield.moments.draw import Draw, Draws, query_form
from meanfield.moments.sampled import SampledSoftmax
from meanfield.moments.state import Exchangeable, Kernel, Layout, Step
from meanfield.ops import Attention

CHUNKS = 10
"""Chunks of drawn attention weights behind an average: a change needs 1 %, where gradients get 0.1 %."""


def mixed(weights: Weights, *kernels: Kernel) -> list[Kernel]:
    """Mix changes of values: E[A K A^T].

    Args:
        weights: What is known of the attention weights.
        kernels: K of several changes.

    Returns:
        The mixed kernels.
    """
    if not isinstance(weights, SampledSoftmax):
        return [weights.mix(kernel) for kernel in kernels]
    return [
        _drawn(weights, kernel, lambda draw, unit: draw.across(draw.left(draw.A, unit), draw.A))
        for kernel in kernels
    ]


def scored(step: Step, role: str, layout: Layout, *kernels: Kernel) -> list[Kernel]:
    """Send changes of queries or keys through the scores to the mixed values.

        <K', G> = <K, backward(G)> for every G: the transpose of the backward rule

    Args:
        step: The step of an attention op.
        role: ``"query"`` or ``"key"``.
        layout: Layout of the tokens that ask.
        kernels: K of several changes.

    Returns:
        The kernels of what they do to the mixed values.

    Source:
        definition; a change and a gradient meet the same slopes.
    """
    op, inner, weights = step.op, step.inner, step.weights
    assert isinstance(op, Attention)
    query, key, value = (inner.get(f"{name}_norm", inner[name]).after for name in ("query", "key", "value"))
    if isinstance(layout, Exchangeable):
        which = 1 if role == "query" else 2
        rule = np.array([weights.back(query, key, value, unit)[which] for unit in np.eye(3)])  # (of G, back)
        counts = layout.counts
        sums = [rule @ (counts * kernel) for kernel in kernels]
        return [np.divide(x, counts, out=np.zeros(3), where=counts > 0) for x in sums]
    assert isinstance(weights, SampledSoftmax)
    scale_sq = float(op.score_scale) ** 2
    if role == "query":
        return [scale_sq * weights.kept["query_form"] * kernel for kernel in kernels]
    v = value.astype(np.float32)
    return [
        scale_sq
        * _drawn(
            weights, kernel, lambda draw, unit: draw.gram(draw.q) * query_form(draw, draw.outer, v, unit)
        )
        for kernel in kernels
    ]


def unevenness(step: Step, layout: Layout) -> float:
    """Compute how much more a change through the scores scatters than its mean says.

        -V^T M V g, M = J <k, k> J, J = diag(a) - a a^T of a row a: its mean square is that of the mean times
        (E (tr J^2)^2 + d_k E tr J^4) / (E tr J^2)^2, as few keys with large weights meet a value twice

    Args:
        step: The step of a softmax attention op.
        layout: Layout of the tokens that ask.

    Returns:
        That factor less 1; 0 where a token sees but one key.

    Assumes:
        Keys apart from what they share are uncorrelated; the rows of two tokens are alike.

    Source:
        definition; second moments of Wishart matrices.
    """
    op = step.op
    assert isinstance(op, Attention)
    rows = _rows(step, op, layout)
    p2, p3, p4, p5 = (np.sum(rows**k, axis=-1) for k in (2, 3, 4, 5))
    square = p2 - 2 * p3 + p2**2
    fourth = p4 - 4 * p5 + 4 * p2 * p4 + 2 * p3**2 - 4 * p2**2 * p3 + p2**4
    mean = float(np.mean(square))
    if mean < 1e-12:
        return 0.0
    return float(np.mean(square**2) + op.head_size * np.mean(fourth)) / mean**2 - 1


def _rows(step: Step, op: Attention, layout: Layout) -> Draws:
    """Draw rows of attention weights, (draws, keys)."""
    if isinstance(layout, Exchangeable):
        query, key = (step.inner.get(f"{name}_norm", step.inner[name]).after for name in ("query", "key"))
        differing = max(float(key[0] - key[1]), 0.0) if layout.tokens > 1 else 0.0
        deviation = abs(float(op.score_scale)) * np.sqrt(op.head_size * float(query[0]) * differing)
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(0x6D69)))
        scores = deviation * rng.standard_normal((max(256, 2**18 // layout.tokens), layout.tokens))
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))
    assert isinstance(step.weights, SampledSoftmax)
    draws = list(itertools.islice(step.weights.heads.draws(), CHUNKS))
    return np.concatenate([draw.A.reshape(-1, draw.A.shape[-1]) for draw in draws]).astype(np.float64)


def _drawn(weights: SampledSoftmax, kernel: Kernel, function: Callable[[Draw, Draws], Draws]) -> Kernel:
    """Average a linear function of a kernel over the first draws of the weights."""
    unit = float(np.max(np.abs(kernel))) or 1.0
    scaled = (kernel / unit).astype(np.float32)
    draws = itertools.islice(weights.heads.draws(), CHUNKS)
    found = [function(draw, scaled).mean(axis=0) for draw in draws]
    return np.asarray(unit * np.mean(found, axis=0, dtype=np.float64))

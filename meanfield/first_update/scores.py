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


def _drawn(weights: SampledSoftmax, kernel: Kernel, function: Callable[[Draw, Draws], Draws]) -> Kernel:
    """Average a linear function of a kernel over the first draws of the weights."""
    unit = float(np.max(np.abs(kernel))) or 1.0
    scaled = (kernel / unit).astype(np.float32)
    draws = itertools.islice(weights.heads.draws(), CHUNKS)
    found = [function(draw, scaled).mean(axis=0) for draw in draws]
    return np.asarray(unit * np.mean(found, axis=0, dtype=np.float64))

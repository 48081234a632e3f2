"""Cross entropy with a tied head: logits meet the very rows that the residual stream has kept.

The final hidden state of token i is y_i = t_i e_i + what is independent of all rows, e_i the row that it has
read. Its logits are Gaussian of mean 0 but for one: the input token's own, of mean s t_i d v, v the variance
of a row's entry, s the factor on the logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meanfield.gaussian.vocabulary import class_overlap
from meanfield.moments.loss import Loss, check_cap, logit_variance, loss_gradient, target_overlap
from meanfield.moments.record import Record
from meanfield.moments.state import Kernel, Layout
from meanfield.moments.top import pend_pull, real_pairs
from meanfield.ops import Transformer

# Gauss-Hermite nodes for a logistic function of a Gaussian variable: smooth, 1e-8 at variances up to 4.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


class Words(NamedTuple):
    """What a tied head meets again.

    Attributes:
        share: t of every token's own row, one number per token or one for all.
        rows: Which pairs of tokens read the same row: 1, 0 or a probability.
    """

    share: Any
    rows: Kernel


def tied_gradient(
    arch: Transformer, kernel: Kernel, layout: Layout, loss: Loss, words: Words, record: Record
) -> Kernel:
    """Compute the gradient kernel of what a tied head reads; record the head's part of the embedding's.

        p_i = e^u / (N_i + e^u), u ~ N(s t_i d v, Var), N_i = (V - 1) exp(var_i / 2): its own class
        G_ij = (s^2 d v / T^2) E sum_k (p_ik - t_ik)(p_jk - t_jk)

    A bias of the head's own adds to the variance of all logits. Behind a hidden layer of fresh weights t is
    0: the head acts as an untied one, whose gradient is the table's.

    Args:
        arch: The architecture, with a tied head.
        kernel: Kernel of the final hidden states, or of the head's hidden layer, per coordinate.
        layout: How many tokens and sequences there are.
        loss: Cross entropy.
        words: What the head meets again.
        record: Collects the embedding's gradient, whose other part comes from the input.

    Returns:
        G of the same, summed over coordinates.

    Assumes:
        Width to infinity; a large vocabulary, relative error O(exp(var)/V) in N_i; labels independent of
        everything else. That g_i and y_i share e_i counts for the embedding's two parts and for the gain of
        the last norm, and is left out below.

    Source:
        press2017 (tied heads); theory from Gaussian logits given the kernel.
    """
    assert arch.head is not None
    assert arch.embedding is not None
    share, rows = words
    if not np.any(share):
        return loss_gradient(arch, kernel, layout, loss, record)
    head, s, sigma_sq = arch.head.linear, float(arch.head.scale), logit_variance(arch)
    pairs, total = real_pairs(layout)
    vocab, d = head.d_out, head.d_in
    of_rows = s**2 * sigma_sq * kernel  # of the logits without their bias
    bias = 0.0 if head.bias is None else float(head.bias.variance)
    logits = of_rows + s**2 * bias
    mean = s * share * sigma_sq
    own = layout.own(logits)
    check_cap(arch.head, own + mean**2)
    # u_i = s (t_i |e|^2 + <rest, e>): |e|^2 has variance 2 d v^2, of which kernel counts d v^2
    spread = own + mean**2 / d
    rest = np.log(vocab - 1) + own / 2
    p = _logistic(mean - rest, spread)
    first, second = layout.pair(p)
    v_first, v_second = layout.pair(own)
    others = class_overlap(vocab - 1, v_first, v_second, logits)
    different = (1 - first) * (1 - second) * others + (first * (1 - second) + second * (1 - first)) / vocab
    a, b = layout.pair(mean - rest)
    both = _product(a, b, *layout.pair(spread), logits + np.multiply(*layout.pair(mean)) / d)
    same = (1 - first - second + both) * others + both
    overlaps = rows * same + (1 - rows) * different + target_overlap(vocab, loss, layout)
    overlaps = s**2 * pairs * overlaps / total**2
    of_head = d * layout.inner(kernel, overlaps)
    # Rows that the input has read get both parts: <t_i g_i, y_j> p_j / T for tokens of one row.
    to, _ = layout.pair(share)
    aligned = of_rows * (1 - first) + first * layout.pair(mean)[1]
    of_both = 2 * s / total**2 * layout.inner(pairs * rows, to * aligned * second)
    field = layout.own(of_rows)
    part = (field + mean**2 / d) / spread if bias else 1.0  # of what u varies by
    pull = field * (1 - p) * (1 - layout.own(others) * (1 - p))
    pull = pull + part * _pull(mean - rest, spread, rest) + (1 - part) * mean * p
    pend_pull(arch, pull, kernel, layout, record)
    record.table(arch.embedding.name, of_head + of_both, shared=True)
    if head.bias is not None:
        record.parameter(arch.head.name, "bias", layout.sum(overlaps))
    return sigma_sq * overlaps


def _logistic(mean: Any, variance: Any) -> Any:
    """E[1 / (1 + e^-x)] for Gaussian x."""
    x = np.asarray(mean)[..., None] + np.sqrt(np.asarray(variance))[..., None] * _NODES
    return (_WEIGHTS / _WEIGHTS.sum() / (1 + np.exp(-x))).sum(axis=-1)


def _pull(mean: Any, variance: Any, rest: Any) -> Any:
    """E[u / (1 + e^-x)] for Gaussian x = u - rest."""
    x = np.asarray(mean)[..., None] + np.sqrt(np.asarray(variance))[..., None] * _NODES
    u = x + np.asarray(rest)[..., None]
    return (_WEIGHTS / _WEIGHTS.sum() * u / (1 + np.exp(-x))).sum(axis=-1)


def _product(a: Any, b: Any, v_a: Any, v_b: Any, cov: Kernel) -> Kernel:
    """E[1 / ((1 + e^-x)(1 + e^-y))] for Gaussian x and y, one pair of tokens at a time."""
    a, b, v_a, v_b, cov = np.broadcast_arrays(a, b, v_a, v_b, cov)
    found = np.empty(cov.shape)
    weights = _WEIGHTS / _WEIGHTS.sum()
    for place in np.ndindex(*cov.shape):
        slope = cov[place] / np.sqrt(v_a[place])
        left = max(float(v_b[place] - slope**2), 0.0)  # below 0 by rounding where x and y are one
        x = a[place] + np.sqrt(v_a[place]) * _NODES
        y = b[place] + slope * _NODES[:, None] + np.sqrt(left) * _NODES
        found[place] = weights @ (1 / (1 + np.exp(-y)) @ weights / (1 + np.exp(-x)))
    return found

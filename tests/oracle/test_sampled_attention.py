"""The quadratic forms of sampled attention against naive draws of queries, keys, values and gradients.

Everything is drawn here, the softmax is differentiated as it is, and the average is over draws alone: no
closed form over values and gradients, no control variate, no shared code but the rotation's definition.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import meanfield as mf
from meanfield.moments import sampled
from meanfield.moments.masks import bucket, visible
from meanfield.moments.sampled import SampledSoftmax
from meanfield.moments.state import Gram
from meanfield.ops import Attention, Draw, Norm, RelativeBias, Rotary

TOKENS, BATCH, SIZE, DRAWS = 5, 2, 8, 40_000
TOTAL = TOKENS * BATCH


def _kernel(seed: int) -> np.ndarray:
    """A token kernel with strong and uneven correlations."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((TOTAL, 12)) + rng.standard_normal(12)
    K = X @ X.T / 12
    return np.asarray(K / np.trace(K) * TOTAL)


def _op(**fields: Any) -> Attention:
    arch = mf.pre_ln(width=2 * SIZE, depth=1, heads=2, init="lecun_normal")
    return replace(arch.attention, **fields)


def _turn(op: Attention, x: np.ndarray) -> np.ndarray:
    """Rotate, plane by plane and position by position."""
    if op.rotary is None:
        return x
    turned, r = x.copy(), int(op.rotary.fraction * SIZE)
    for m in range(r // 2):
        for t in range(TOTAL):
            theta = (t % TOKENS) * float(op.rotary.base) ** (-2 * m / r)
            a, b = x[:, t, m], x[:, t, m + r // 2]
            turned[:, t, m] = np.cos(theta) * a - np.sin(theta) * b
            turned[:, t, m + r // 2] = np.sin(theta) * a + np.cos(theta) * b
    return turned


def _back_turn(op: Attention, x: np.ndarray) -> np.ndarray:
    """Rotate back: the transpose of a rotation, by its matrix."""
    if op.rotary is None:
        return x
    basis = np.broadcast_to(np.eye(SIZE)[:, None, :], (SIZE, TOTAL, SIZE))
    matrices = _turn(op, basis.copy()).transpose(1, 0, 2)  # (T, in, out)
    return np.einsum("stb,tab->sta", x, matrices)


def _naive(op: Attention, kernels: list[np.ndarray], layout: Gram, draws: int) -> dict[str, np.ndarray]:
    """Draw everything; return per-draw kernels of one head, gradients scaled to all heads."""
    rng = np.random.default_rng(7)
    query, key, value, gradient = (
        np.linalg.cholesky(kernel) @ rng.standard_normal((draws, TOTAL, SIZE)) for kernel in kernels
    )
    gradient /= SIZE**0.5
    q, k = _turn(op, query), _turn(op, key)
    S = float(op.score_scale) * q @ k.transpose(0, 2, 1)
    if op.relative_bias is not None:
        table = rng.standard_normal((draws, op.relative_bias.buckets))
        table *= float(op.relative_bias.weight.variance) ** 0.5
        S += np.tile(table[:, bucket(op.relative_bias, TOKENS)], (1, BATCH, BATCH))
    if op.alibi is not None:  # half of the draws for each head
        for t in range(TOTAL):
            for u in range(TOTAL):
                for h, m in enumerate(op.alibi):
                    S[h :: len(op.alibi), t, u] -= float(m) * abs(t % TOKENS - u % TOKENS)
    slope = np.ones_like(S)
    if op.softcap is not None:
        slope = 1 - np.tanh(S / op.softcap) ** 2
        S = op.softcap * np.tanh(S / op.softcap)
    seen = np.zeros((TOTAL, TOTAL), dtype=bool)
    for b, block in enumerate(visible(op, layout)):
        seen[b * TOKENS : (b + 1) * TOKENS, b * TOKENS : (b + 1) * TOKENS] = block
    A = np.where(seen, np.exp(S), 0)
    A /= A.sum(axis=-1, keepdims=True)
    rate = float(op.dropout)
    mask = (rng.random(A.shape) >= rate) / (1 - rate)
    mixed = (A * mask) @ value
    dA = mask * (gradient @ value.transpose(0, 2, 1))
    dS = A * (dA - (A * dA).sum(axis=-1, keepdims=True)) * slope
    of_value = (A * mask).transpose(0, 2, 1) @ gradient
    of_query = _back_turn(op, float(op.score_scale) * dS @ k)
    of_key = _back_turn(op, float(op.score_scale) * dS.transpose(0, 2, 1) @ q)
    found = {
        "mixed": mixed @ mixed.transpose(0, 2, 1) / SIZE,
        "of_value": of_value @ of_value.transpose(0, 2, 1),
        "of_query": of_query @ of_query.transpose(0, 2, 1),
        "of_key": of_key @ of_key.transpose(0, 2, 1),
    }
    if op.relative_bias is not None:
        same = np.tile(bucket(op.relative_bias, TOKENS), (BATCH, BATCH))
        sums = [(dS * (same == b)).sum(axis=(1, 2)) for b in np.unique(same)]
        found["of_bias"] = np.square(sums).sum(axis=0)
    return found


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"causal": True, "window": 2},
    "dropout": {"dropout": 0.3},
    "soft cap": {"softcap": 0.7},
    "rotary": {"rotary": Rotary(base=100)},
    "half rotary": {"rotary": Rotary(fraction=0.5, base=10), "causal": True},
    "relative bias": {
        "relative_bias": RelativeBias("attention.relative_bias", Draw(0.5), buckets=8, max_distance=4)
    },
    "alibi": {"alibi": (0.1, 1.2)},
    "alibi, causal": {"alibi": (0.1, 1.2), "causal": True},
}


@pytest.mark.statistical
@pytest.mark.parametrize("case", CASES)
def test_sampled_attention_against_naive_draws(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two weighted sums of every kernel: its trace, and its product with another kernel."""
    monkeypatch.setattr(sampled, "TARGET", 2e-3)
    op, layout = _op(**CASES[case]), Gram(TOKENS, BATCH)
    kernels = [_kernel(seed) for seed in range(4)]
    weights = SampledSoftmax.of(op, kernels[0], kernels[1], layout)
    ours = {"mixed": weights.mix(kernels[2])}
    ours["of_value"], ours["of_query"], ours["of_key"] = weights.back(*kernels)
    naive = _naive(op, kernels, layout, DRAWS)
    probe = _kernel(9)
    for name, kernel in ours.items():
        for weight in (np.eye(TOTAL), probe):
            samples = (naive[name] * weight).sum(axis=(1, 2))
            error = samples.std() / DRAWS**0.5
            expected, found = samples.mean(), float((kernel * weight).sum())
            # queries and keys of different tokens: expected inner products, O(1/head size) aside
            allowance = 0.01 if op.rotary is not None and name in ("of_query", "of_key") else 0.0
            assert abs(found - expected) < 4 * error + (4 * 2e-3 + allowance) * abs(expected), name
            assert error < 0.015 * abs(expected)
    if op.relative_bias is not None:
        samples = naive["of_bias"]
        error = samples.std() / DRAWS**0.5
        assert (
            abs(weights.bias_gradient(kernels[2], kernels[3]) - samples.mean())
            < 4 * error + 0.008 * samples.mean()
        )


@pytest.mark.statistical
def test_one_slope_for_all_heads_is_rejected() -> None:
    kernels = [_kernel(seed) for seed in range(4)]
    layout = Gram(TOKENS, BATCH)
    samples = np.trace(_naive(_op(alibi=(0.1, 1.2)), kernels, layout, DRAWS)["mixed"], axis1=1, axis2=2)
    error = samples.std() / DRAWS**0.5
    for slopes, right in (((0.1, 1.2), True), ((0.65, 0.65), False), ((0.1, 2.4), False)):
        weights = SampledSoftmax.of(_op(alibi=slopes), kernels[0], kernels[1], layout)
        found = float(np.trace(weights.mix(kernels[2])))
        assert bool(abs(found - samples.mean()) < 4 * error + 0.004 * found) is right, slopes


@pytest.mark.statistical
def test_a_form_that_is_five_per_cent_wrong_is_rejected() -> None:
    op, layout = _op(), Gram(TOKENS, BATCH)
    kernels = [_kernel(seed) for seed in range(4)]
    samples = np.trace(_naive(op, kernels, layout, DRAWS)["of_query"], axis1=1, axis2=2)
    weights = SampledSoftmax.of(op, kernels[0], kernels[1], layout)
    weights.mix(kernels[2])
    found = float(np.trace(weights.back(*kernels)[1]))
    error = samples.std() / DRAWS**0.5
    assert abs(found - samples.mean()) < 4 * error + 0.004 * found
    assert abs(1.05 * found - samples.mean()) > 4 * error + 0.004 * found


@pytest.mark.parametrize("width", [SIZE, 2 * SIZE])
def test_normed_queries_have_the_size_of_their_norm(width: int) -> None:
    norm = Norm("attention.q_norm", width, "rmsnorm", 0.0)
    op = _op(query_norm=norm, key_norm=replace(norm, name="attention.k_norm"))
    weights = SampledSoftmax.of(op, 4 * _kernel(0), 9 * _kernel(1), Gram(TOKENS, BATCH))
    draws = [draw.q for draw, _ in zip(weights.heads.draws(), range(200), strict=False)]
    sizes = np.square(draws).mean(axis=(0, 1, 3))
    # one head: every draw; all heads together: on average, over 200 x 4 x 8 squares of a normal variable
    assert sizes == pytest.approx(1.0, rel=1e-5 if width == SIZE else 4 * (2 / 6400) ** 0.5)

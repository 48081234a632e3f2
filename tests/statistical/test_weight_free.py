"""The law of the weight-free sampler against weights that are drawn, with the wrong samplers that must fail.

Two samples of a parameter are compared by their means and by Kolmogorov and Smirnov's test. Parameters of one
seed hang together, so that the level is shared out over all comparisons of a pair of samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
from scipy import stats

import empirical
import meanfield as mf
from meanfield import ops
from meanfield.weight_free import linear, sample
from meanfield.weight_free.backend import Array
from meanfield.weight_free.run import Run
from tests.meanfield.weights import dense_sample

pytestmark = pytest.mark.statistical

LEVEL = 1e-3  # chance that one pair of samples of equal law is rejected
SEEDS = 3000
Sample = Mapping[ops.ParameterKey, np.ndarray]

SMALL: dict[str, Any] = {"width": 32, "heads": 4, "d_ff": 48, "init": "torch"}
SEQUENCE_BIAS = ops.RelativeBias("attention.relative_bias", ops.Draw(1), 8, 6)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "post_ln": (mf.post_ln(**SMALL, depth=1), {"tokens": 5}),
    "pre_ln, gated": (
        mf.pre_ln(
            **SMALL, depth=1, kv_heads=2, activation="swiglu", causal=True, norm="rmsnorm", rotary=1
        ),
        {"tokens": 3, "batch": 2},
    ),
    "uniform, more tokens than coordinates": (
        mf.post_ln(**{**SMALL, "width": 8}, depth=1, attention="uniform"), {"tokens": 5, "batch": 2}
    ),
    "tied head": (
        mf.pre_ln(**SMALL, depth=1, vocab=9, tied=True, embedding_scale=2.0, relative_bias=SEQUENCE_BIAS),
        {"tokens": 5, "loss": "cross_entropy"},
    ),
}  # fmt: skip


@lru_cache
def drawn(case: str, first: int = 10**6) -> Sample:
    """Sample with weights that are drawn."""
    arch, how = CASES[case]
    return dense_sample(arch, **how, seeds=range(first, first + SEEDS))


def rejected(ours: Sample, theirs: Sample) -> list[str]:
    """Name the parameters whose two samples differ in mean or in law."""
    assert set(ours) == set(theirs)
    level = LEVEL / (2 * len(ours))
    found = []
    largest = max(values.mean() for values in theirs.values())
    for key, a in ours.items():
        b = theirs[key]
        if max(a.max(), b.max()) < 1e-9 * largest:  # zero but for rounding: the key's bias
            continue
        z = (a.mean() - b.mean()) / np.hypot(stats.sem(a), stats.sem(b))
        chance = float(stats.ks_2samp(a, b).pvalue)
        if abs(z) > stats.norm.isf(level / 2) or chance < level:
            found.append(
                f"{key.layer} {key.module}.{key.parameter}: {z:.1f} standard errors, p = {chance:.1e}"
            )
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_law_is_that_of_drawn_weights(case: str) -> None:
    arch, how = CASES[case]
    wrong = rejected(sample(arch, **how, seeds=range(SEEDS)), drawn(case))
    assert not wrong, wrong


def test_two_samples_with_drawn_weights_are_not_rejected() -> None:
    wrong = rejected(drawn("post_ln", 2 * 10**6), drawn("post_ln"))
    assert not wrong, wrong


def test_the_law_is_that_of_the_ensemble() -> None:
    arch = mf.pre_ln(
        width=32, heads=4, d_ff=64, depth=1, causal=True, init="xavier_normal", activation="gelu"
    )
    measured = empirical.ensemble(arch, tokens=6, seeds=range(250)).samples
    theirs = {}
    for key in sample(arch, tokens=6, seeds=[0]):
        of_key = (measured.layer == key.layer) & (measured.module == key.module)
        rows = measured[of_key & (measured.parameter == key.parameter)]
        theirs[key] = rows["grad_sq_hat"].to_numpy()
    wrong = rejected(sample(arch, tokens=6, seeds=range(SEEDS)), theirs)
    assert not wrong, wrong


def _without_memory(saved: linear.Projected, gradients: dict[str, Array], run: Run) -> Any:
    """A backward pass through weights that are not the forward ones."""
    _, squares = RIGHT(saved, gradients, run)
    width = saved.span.basis.shape[-1]
    weights = {name: run.draw(name, "weight", op.weight, op.d_out, width) for name, op in saved.maps.items()}
    return sum(gradients[name] @ weights[name] for name in saved.maps), squares


def _without_rest(saved: linear.Projected, gradients: dict[str, Array], run: Run) -> Any:
    """A weight that is zero outside the span of the tokens."""
    before, squares = RIGHT(saved, gradients, run)
    basis = saved.span.basis
    return before @ np.swapaxes(basis, 1, 2) @ basis, squares


def _five_percent(saved: linear.Projected, gradients: dict[str, Array], run: Run) -> Any:
    """A weight of 5 % more variance in the backward pass."""
    before, squares = RIGHT(saved, gradients, run)
    return 1.05**0.5 * before, squares


RIGHT = linear.project_back


@pytest.mark.parametrize("wrong", [_without_memory, _without_rest, _five_percent])
def test_a_wrong_sampler_is_rejected(wrong: Any) -> None:
    arch, how = CASES["pre_ln, gated"]
    with mock.patch.object(linear, "project_back", wrong):
        ours = sample(arch, **how, seeds=range(SEEDS))
    assert rejected(ours, drawn("pre_ln, gated"))

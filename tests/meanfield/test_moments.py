"""Laws of the numeric recursion, on ops drawn by Hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

import meanfield as mf
from meanfield.errors import InputError, MissingRuleError, UnknownNameError
from meanfield.initialization import Sizes, initialization
from meanfield.moments.backward import backward
from meanfield.moments.forward import forward
from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable
from meanfield.ops import Draw, Linear, Norm, Op, Residual, Sequential
from tests import strategies as own

TOKENS = 4
LAYOUT = Exchangeable(TOKENS, 1)
UNIT = np.array([1.0, 0.0, 0.0])


class Unread(Record):
    """A record of ops that are drawn at random, names and all: two may have one."""

    def parameter(self, module: str, parameter: str, grad_sq: float) -> None:
        """Keep nothing."""


def _back(op: Op, kernel: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    return backward(op, forward(op, kernel, LAYOUT), gradient, LAYOUT, Unread())


def _smallest_eigenvalue(kernel: np.ndarray) -> float:
    return float(min(kernel[0] - kernel[1], kernel[0] + (TOKENS - 1) * kernel[1]))


@given(op=own.ops(), kernel=own.kernels(TOKENS), gradient=own.kernels(TOKENS))
def test_kernels_stay_positive_semidefinite(op: Op, kernel: np.ndarray, gradient: np.ndarray) -> None:
    after = forward(op, kernel, LAYOUT).after
    before = _back(op, kernel, gradient)
    assert _smallest_eigenvalue(after) >= -1e-9 * after[0]
    # what reaches the op may cancel to nothing: rounding is that of the gradient after it
    assert _smallest_eigenvalue(before) >= -1e-9 * max(before[0], gradient[0])


@given(op=own.ops(), q=st.floats(0.1, 10))
def test_identical_tokens_stay_identical(op: Op, q: float) -> None:
    after = forward(op, np.array([q, q, 0.0]), LAYOUT).after
    assert after[1] == pytest.approx(after[0], rel=1e-12)


@given(a=own.ops(), b=own.ops(), c=own.ops(), kernel=own.kernels(TOKENS))
def test_sequential_is_associative(a: Op, b: Op, c: Op, kernel: np.ndarray) -> None:
    left = Sequential((Sequential((a, b)), c))
    right = Sequential((a, Sequential((b, c))))
    np.testing.assert_array_equal(forward(left, kernel, LAYOUT).after, forward(right, kernel, LAYOUT).after)
    np.testing.assert_array_equal(_back(left, kernel, UNIT), _back(right, kernel, UNIT))


@given(op=own.ops(), kernel=own.kernels(TOKENS))
def test_a_residual_of_scale_zero_is_the_identity(op: Op, kernel: np.ndarray) -> None:
    residual = Residual("residual", op, branch_scale=0)
    np.testing.assert_array_equal(forward(residual, kernel, LAYOUT).after, kernel)
    np.testing.assert_array_equal(_back(residual, kernel, UNIT), UNIT)


@given(kernel=own.kernels(TOKENS))
def test_a_norm_is_idempotent(kernel: np.ndarray) -> None:
    norm = Norm("norm", 8, eps=0.0)
    once = forward(norm, kernel, LAYOUT).after
    np.testing.assert_allclose(forward(norm, once, LAYOUT).after, once, rtol=1e-14)
    assert once[0] == 1


@given(op=own.ops(), kernel=own.kernels(TOKENS), factor=st.floats(0.01, 100))
def test_backward_is_linear(op: Op, kernel: np.ndarray, factor: float) -> None:
    one = _back(op, kernel, UNIT)
    np.testing.assert_allclose(_back(op, kernel, factor * UNIT), factor * one, rtol=1e-12)


def test_the_strategies_reach_the_edges() -> None:
    find(own.kernels(TOKENS), lambda k: bool(k[0] == k[1]))
    find(own.kernels(TOKENS), lambda k: bool(k[1] < 0))
    find(own.ops(), lambda op: isinstance(op, Residual) and isinstance(op.branch, Sequential))
    find(own.transformers(), lambda a: a.depth == 6 and a.attention.kind == "softmax")


def test_the_key_bias_has_no_gradient() -> None:
    df = mf.predict(mf.post_ln(width=16, depth=2, heads=4), tokens=5).df.set_index(["module", "parameter"])
    assert (df.grad_sq["attention.k", "bias"] == 0).all()
    assert (df.grad_sq["attention.q", "bias"] > 0).all()


def test_scores_without_variance_are_uniform_attention() -> None:
    """With W_Q = 0, as in the paper, softmax is the mean, and only W_Q itself sees the scores' gradient."""
    law = replace(initialization("lecun_normal", Sizes(16, 16, 64, 2)), q=Draw(0))
    soft, uniform = (
        mf.predict(mf.pre_ln(width=16, depth=2, heads=4, init=law, attention=kind), tokens=5, batch=2).df
        for kind in ("softmax", "uniform")
    )
    both = uniform.merge(soft, on=["layer", "module", "parameter"])
    # what flows back through the scores to x is 0 as well: sigma_q = 0 stops queries, Kq = 0 stops keys
    np.testing.assert_allclose(both.grad_sq_x, both.grad_sq_y, rtol=1e-12)
    only = soft.set_index(["module", "parameter"]).grad_sq
    assert (only["attention.k", "weight"] == 0).all()
    assert (only["attention.q", "weight"] > 0).all()


@given(arch=own.transformers(), tokens=st.integers(1, 40), batch=st.integers(1, 4))
def test_every_parameter_has_one_positive_prediction(arch: mf.Transformer, tokens: int, batch: int) -> None:
    df = mf.predict(arch, tokens=tokens, batch=batch).df
    assert not df.duplicated(["layer", "module", "parameter"]).any()
    assert np.isfinite(df.grad_sq).all()
    scores = df.module.isin(["attention.q", "attention.k"])
    assert (df.grad_sq[~scores] > 0).all()
    key_bias = (df.module == "attention.k") & (df.parameter == "bias")
    assert ((df.grad_sq > 0) == (~scores | ((tokens > 1) & ~key_bias))).all()
    norms = 2 * arch.depth + (arch.final_norm is not None)
    shifts = norms if any("norm" in m for m in df[df.parameter == "bias"].module) else 0
    maps = 6 if arch.attention.kind == "softmax" else 4
    assert len(df) == arch.depth * 2 * maps + norms + shifts


@pytest.mark.parametrize("preset", [mf.paper_post_ln, mf.paper_pre_ln])
def test_ten_thousand_layers_neither_over_nor_underflow(preset: Callable[..., mf.Transformer]) -> None:
    df = mf.predict(preset(width=16, depth=10_000), tokens=16).df
    assert np.isfinite(df.grad_sq).all()
    assert (df.grad_sq > 0).all()


def test_deep_post_ln_keeps_the_coherent_share() -> None:
    points = mf.predict(mf.paper_post_ln(width=16, depth=200), tokens=16).activations
    after = points[points.module == "norm2"].set_index("layer").q_grad
    # Layers 100 to 200 see identical tokens: only the coherent 1/n of the gradient is left, and it is kept.
    assert after[100] / after[200] == pytest.approx(1 / 16, rel=1e-6)
    assert after[150] / after[200] == pytest.approx(1 / 16 * (1 + 15 * 2.0**-50), rel=1e-6)


def test_mini_batches_are_a_larger_batch() -> None:
    """The loss is a mean over tokens, so the mean gradient of 4 batches of 2 is that of one batch of 8."""
    arch = mf.paper_pre_ln(width=8, depth=2)
    one = mf.predict(arch, tokens=4, batch=2).df.grad_sq
    eight = mf.predict(arch, tokens=4, batch=8).df.grad_sq
    assert (eight < one).all()
    assert (eight > one / 4.001).all()


def _back_unknown() -> object:
    step = forward(Sequential(()), UNIT, LAYOUT)
    return backward(Op(), step, UNIT, LAYOUT, Record())


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (lambda: forward(Op(), UNIT, LAYOUT), "moments.forward has no rule for Op"),
        (_back_unknown, "moments.backward has no rule for Op"),
        (lambda: forward(Linear(8, 8, Draw(1, mean=1)), UNIT, LAYOUT), "mean 1"),
    ],
)
def test_where_theory_is_silent_it_says_so(kind, match) -> None:  # type: ignore[no-untyped-def]  # lambdas
    with pytest.raises(MissingRuleError, match=match):
        kind()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": 2, "batch": -1}, "batch=-1"),
        ({"tokens": 2, "q": float("nan")}, "q=nan"),
        ({"tokens": 2, "q": -1.0}, "q=-1"),
        ({"tokens": 4, "cov": 1.5}, "cov=1.5"),
        ({"tokens": 4, "cov": -0.5}, "cov=-0.5"),
        ({"tokens": 4, "loss": "cross_entropy"}, "vocab="),
        ({"tokens": 4, "q": "1"}, "q='1' is not a number"),
        ({"tokens": 4, "label_smoothing": 0.1}, "label_smoothing=0.1 means nothing"),
    ],
)
def test_bad_input_is_refused(options, match) -> None:  # type: ignore[no-untyped-def]  # keyword dictionaries
    with pytest.raises(InputError, match=match):
        mf.predict(mf.paper_post_ln(width=8, depth=1), **options)


def test_an_embedding_makes_its_own_input() -> None:
    arch = mf.pre_ln(width=8, depth=1, attention="uniform", vocab=100)
    with pytest.raises(InputError, match="q, cov and gram mean nothing"):
        mf.predict(arch, tokens=4, q=2.0)


def test_losses_have_names() -> None:
    with pytest.raises(UnknownNameError, match="cross_entropy, linear, mse"):
        mf.predict(mf.paper_post_ln(width=8, depth=1), tokens=2, loss="hinge")


@pytest.mark.parametrize(("vocab", "smoothing"), [(20_000, 0.1), (50, 0.0), (3, 0.2)])
def test_cross_entropy_against_sampled_logits(vocab: int, smoothing: float) -> None:
    """The rule for any vocabulary against draws of Gaussian logits, exact in the labels."""
    n, draws = 4, {20_000: 400, 50: 10_000, 3: 20_000}[vocab]
    arch = mf.pre_ln(width=64, depth=1, attention="uniform", init="xavier_normal", vocab=vocab)
    prediction = mf.predict(arch, tokens=n, loss="cross_entropy", label_smoothing=smoothing)
    top = prediction.activations.query("module == 'final_norm'").iloc[0]
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(np.full((2, 2), top["cov"]) + (top["q"] - top["cov"]) * np.eye(2))
    own_pair, two_tokens = [], []
    for _ in range(draws):
        logits = root @ rng.standard_normal((2, vocab))
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        t = np.full((2, vocab), smoothing / vocab)
        t[[0, 1], rng.integers(vocab, size=2)] += 1 - smoothing
        own_pair.append(((p - t)[0] ** 2).sum())
        # Two labels coincide once in V draws: too rare to sample, so take E[t] = 1/V, independent of p.
        two_tokens.append((p - 1 / vocab)[0] @ (p - 1 / vocab)[1])
    for found, sampled in ((top["q_grad"], own_pair), (top["cov_grad"], two_tokens)):
        error = np.std(sampled) / draws**0.5
        expected = np.mean(sampled)
        assert abs(found * n**2 - expected) < 4 * error < 0.08 * expected

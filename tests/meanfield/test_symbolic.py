"""The symbolic interpreters against values worked out by hand, and the helpers against their controls."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import sympy as sp

import meanfield as mf
from meanfield.claims import Setting
from meanfield.errors import MissingRuleError
from meanfield.ops import Embedding, Head, Linear, Norm, ParameterKey, Residual, Transformer
from meanfield.symbolic.backward import backward
from meanfield.symbolic.checks import instances, numeric, proved, proved_sign
from meanfield.symbolic.forward import forward
from meanfield.symbolic.plain import plain, plain_text
from meanfield.symbolic.recurrence import RHO, A, B, N, Q, layer_map, profile
from meanfield.symbolic.state import GradMoments, Moments

ONE, ZERO = sp.Integer(1), sp.Integer(0)
SINGLE = Moments(ONE, ONE, ONE)


def _layers(arch: Transformer) -> list[sp.Expr]:
    grads = backward(arch, forward(arch, SINGLE), GradMoments(ONE, ZERO)).grad_sq
    return [grads[ParameterKey(layer, "ffn.down", "weight")] for layer in range(1, arch.depth + 1)]


def test_post_ln_keeps_the_gradient_of_one_token() -> None:
    assert _layers(mf.paper_post_ln(width=6, depth=4)) == [2, 2, 2, 2]


def test_pre_ln_gradient_of_one_token_falls_like_one_over_q() -> None:
    expected = [sp.Rational(2 * 3, 2 + 3 * layer) for layer in range(1, 5)]
    assert _layers(mf.paper_pre_ln(width=6, depth=4)) == expected
    assert _layers(mf.paper_pre_ln(width=6, depth=4)) != [sp.Rational(21, 20) * e for e in expected]


def test_post_ln_stations() -> None:
    residual1, norm1, residual2, norm2 = layer_map("post", ONE, RHO, N).sublayers
    m = (1 + (N - 1) * RHO) / N
    assert sp.simplify(residual1.after.q - 1 - m) == 0
    assert sp.simplify(residual1.after.cov - RHO - m) == 0
    assert sp.simplify(norm1.after.q) == 1
    assert residual2.after.q.equals(sp.Rational(3, 2))
    assert norm2.after.q.equals(1)


def test_gradient_of_equal_tokens_in_modes() -> None:
    post = layer_map("post", ONE, ONE, N).back.grad
    assert sp.simplify(post.q_grad + (N - 1) * post.cov_grad - A - (N - 1) * B) == 0
    assert sp.simplify(post.q_grad - post.cov_grad - (A - B) / 2) == 0
    pre = layer_map("pre", Q, ONE, N).back.grad
    assert sp.simplify(pre.q_grad - pre.cov_grad - (A - B) * (1 + 1 / (2 * (Q + 1)))) == 0


def test_every_parameter_has_its_key() -> None:
    arch = mf.pre_ln(width=4, depth=2, heads=2, attention="uniform", vocab=5)
    keys = backward(arch, forward(arch, SINGLE), GradMoments(ONE, ZERO)).grad_sq.keys()
    assert ParameterKey(0, "embedding", "weight") in keys
    assert ParameterKey(3, "final_norm", "bias") in keys
    assert ParameterKey(3, "head", "weight") in keys
    block = {key[1:] for key in keys if key.layer == 2}
    assert block == {
        (module, parameter)
        for module in ("attention.v", "attention.o", "ffn.up", "ffn.down", "norm1", "norm2")
        for parameter in ("weight", "bias")
    }


def test_linear_scales_adds_the_bias_and_counts_pairs_of_tokens() -> None:
    op = Linear(3, 5, mf.Draw(Fraction(2, 3)), mf.Draw(Fraction(1, 4)))
    trace = forward(op, Moments(Q, RHO, sp.Integer(2)))
    assert trace.after.q == 2 * Q + sp.Rational(1, 4)
    assert trace.after.cov == 2 * RHO + sp.Rational(1, 4)
    back = backward(op, trace, GradMoments(A, B))
    assert back.grad == GradMoments(2 * A, 2 * B)
    assert sp.expand(back.grad_sq[ParameterKey(0, "", "weight")] - 3 * (2 * Q * A + 2 * RHO * B)) == 0
    assert sp.expand(back.grad_sq[ParameterKey(0, "", "bias")] - 2 * A - 2 * B) == 0


def test_norm_has_eps_and_gain() -> None:
    op = Norm("norm1", 8, eps=0.5)
    trace = forward(op, Moments(ONE, ONE, ONE))
    assert trace.after.q == sp.Rational(2, 3)
    back = backward(op, trace, GradMoments(ONE, ZERO))
    assert back.grad.q_grad == sp.Rational(2, 3)
    assert back.grad_sq[ParameterKey(0, "norm1", "weight")] == sp.Rational(2, 3)
    assert back.grad_sq[ParameterKey(0, "norm1", "bias")] == 1


def test_residual_scales_are_squared() -> None:
    op = Residual("residual1", Linear(4, 4, mf.Draw(Fraction(1, 4))), skip_scale=2, branch_scale=3)
    trace = forward(op, SINGLE)
    assert trace.after.q == 13
    assert backward(op, trace, GradMoments(ONE, ZERO)).grad.q_grad == 13


def test_embedding_and_head() -> None:
    table = Embedding("embedding", vocab=7, width=4, weight=mf.Draw(Fraction(1, 4)), scale=2)
    trace = forward(table, Moments(Q, RHO, sp.Integer(3)))
    assert (trace.after.q, trace.after.cov) == (
        1,
        sp.Rational(1, 7),
    )  # two tokens are the same once in 7 times
    back = backward(table, trace, GradMoments(A, B))
    assert back.grad == GradMoments(ZERO, ZERO)
    collected = back.grad_sq[ParameterKey(0, "embedding", "weight")]
    assert sp.expand(collected - 4 * (3 * A + 6 * B / 7)) == 0
    head = Head("head", Linear(4, 7, mf.Draw(Fraction(1, 4))))
    assert forward(head, SINGLE).after.q == 1


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "softmax", "causal": True},
        {"attention": "uniform", "causal": True},
    ],
)
def test_silent_theory_is_refused_with_a_remedy(options: dict[str, Any]) -> None:
    arch = mf.post_ln(width=4, depth=1, heads=2, **options)
    with pytest.raises(MissingRuleError, match=r"symbolic\.forward has no rule .*numeric prediction"):
        forward(arch, SINGLE)


def test_depth_ten_thousand_stays_finite() -> None:
    for placement in ("post", "pre"):
        run = profile(placement, Setting(width=64, depth=10_000, tokens=16))
        assert all(0 < value < 1e9 for value in run.down)
        assert run.rho[-1] == pytest.approx(1, abs=3e-3)


def test_checks_reject_what_is_wrong() -> None:
    x = sp.Symbol("x", positive=True)
    assert proved("", "", (x + 1) ** 2 - x**2 - 2 * x - 1).holds
    assert not proved("", "", sp.Rational(3, 2) - sp.Rational(21, 20) * sp.Rational(3, 2)).holds
    assert not proved("", "", ZERO, x).holds
    assert not proved("", "", sp.Matrix([[0, x]])).holds
    assert not proved_sign("", "", x, -x).holds
    assert not proved_sign("", "", sp.Symbol("unknown")).holds
    assert not instances("", "", [True, False]).holds
    one = sp.Float(1, 40)
    assert not numeric("", "", [(1.05, 1.0)], digits=3).holds
    assert numeric("", "", [(one, one)]).holds


def test_a_step_without_a_check_is_refused() -> None:
    with pytest.raises(ValueError, match="without a check"):
        proved("", "")
    with pytest.raises(ValueError, match="without a check"):
        proved_sign("", "")
    with pytest.raises(ValueError, match="without a check"):
        instances("", "", ())


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac{1}{3 \pi}", "1/(3 π)"),
        (r"\frac{a + b}{2}", "(a + b)/2"),
        (r"\sqrt{2 d}", "√(2 d)"),
        (r"q_{l+1}", "q_(l+1)"),
        (r"\frac{\partial L}{\partial W^2}", "∂L/∂W²"),
        (r"\int_0^{\infty} x", "∫₀^∞ x"),
    ],
)
def test_plain_text_of_formulas(latex: str, text: str) -> None:
    assert plain(latex) == text


def test_plain_text_refuses_an_unknown_command() -> None:
    with pytest.raises(ValueError, match="oint"):
        plain_text(r"a $\oint$")

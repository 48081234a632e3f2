"""The symbolic interpreters against values worked out by hand, and the helpers against their controls."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import sympy as sp

import meanfield as mf
from meanfield.claims import Setting
from meanfield.errors import InputError, MissingRuleError
from meanfield.ops import (
    Attention,
    Dropout,
    DualResidual,
    Embedding,
    FeedForward,
    Fork,
    Gain,
    Head,
    Linear,
    Merge,
    Norm,
    Op,
    Parallel,
    ParameterKey,
    Repeat,
    Residual,
    Scale,
    Sequential,
    Transformer,
)
from meanfield.symbolic.activations import dual, slope_dual
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


def test_duals_by_hand() -> None:
    # E[u Phi(u)] = q/sqrt(2 pi (1 + q)) and E phi' = 1/2; E ReLU^2 = 1/2
    assert sp.simplify(dual("gelu", ONE, ZERO) - 1 / (4 * sp.pi)) == 0
    assert sp.simplify(slope_dual("gelu", ONE, ZERO)) == sp.Rational(1, 4)
    assert dual("relu_squared", Q, Q) == 3 * Q**2 / 2
    assert dual("relu_squared", ONE, ZERO) == sp.Rational(1, 4)
    assert slope_dual("relu_squared", ONE, ZERO) == 2 / sp.pi
    assert (dual("identity", Q, RHO), slope_dual("identity", Q, RHO)) == (RHO, 1)
    assert str(slope_dual("tanh", Q, RHO)) == "slope_dual_tanh(q, q, rho)"


def _there_and_back(op: Op, q: int) -> tuple[sp.Expr, sp.Expr]:
    """q after the op, and A before it for A = 1 after it, of one token."""
    trace = forward(op, Moments(sp.Integer(q), sp.Integer(q), ONE))
    return trace.after.q, backward(op, trace, GradMoments(ONE, ONE)).grad.q_grad


NORM = Norm("norm", 4, eps=0)  # x -> x/2 where q = 4


@pytest.mark.parametrize(
    ("op", "after", "before"),
    [
        (Scale(3), 36, 9),
        (Gain("gain", 4, 3), 36, 9),
        (Dropout(Fraction(1, 2)), 8, 2),
        (Residual("residual", NORM), 9, sp.Rational(9, 4)),  # x + x/2
        (Residual("residual", Sequential((NORM, Residual("inner", Scale(3))))), 36, 9),  # x + 4 x/2
        (Parallel((NORM, Scale(2))), 25, sp.Rational(25, 4)),  # x/2 + 2 x
        (Sequential((Fork(), Merge(NORM))), 9, sp.Rational(9, 4)),
        # (x, x) -> (2 x/4, 2 x) -> x/2 + x/2 with F(x) = x, q = 16 at the first norm
        (Sequential((Fork(), DualResidual("residual", Scale(1), NORM), Merge(NORM))), 4, 1),
    ],
)
def test_multiples_of_the_input_stay_multiples(op: Op, after: int, before: sp.Expr) -> None:
    assert _there_and_back(op, 4) == (after, before)


def _attention(**options: Any) -> Attention:
    law = Linear(4, 4, mf.Draw(Fraction(1, 4)), mf.Draw(1))
    return Attention("attention", "softmax", 2, 2, law, law, law, score_scale=1, **options)


def test_softmax_attention_in_symbols() -> None:
    n, q, c, o, o2, s, s2 = sp.symbols("n q c o o2 s s2", positive=True)
    op = _attention()
    trace = forward(op, Moments(q, c, n))
    back = backward(op, trace, GradMoments(A, B))
    # per head: variance 2 (q + 1) (q - c); what all values share is handed on whole
    at = (n, sp.expand(2 * (q + 1) * (q - c)), (c + 1) / (q + 1))
    values = {"overlap": o, "overlap_pair": o2, "slope": s, "slope_pair": s2}

    def plain(expression: sp.Expr) -> sp.Expr:
        for found in expression.atoms(sp.core.function.AppliedUndef):
            arguments = at[: len(found.args)]
            assert all(sp.expand(x - y) == 0 for x, y in zip(found.args, arguments, strict=True))
            expression = expression.subs(found, values[found.func.__name__])
        return sp.expand(expression)

    assert plain(trace.after.q - (c + 1) - o * (q - c)) == 0
    assert plain(trace.after.cov - (c + 1) - o2 * (q - c)) == 0
    query = back.grad_sq[ParameterKey(0, "attention.q", "bias")]
    assert plain(query - 2 * (q - c) ** 2 * (n * A * s + n * (n - 1) * B * s2)) == 0
    assert back.grad_sq[ParameterKey(0, "attention.k", "bias")] == 0
    value = back.grad_sq[ParameterKey(0, "attention.v", "bias")]
    assert sp.simplify(plain(value - n * A - n * (n - 1) * B)) == 0  # weights of a row sum to 1


def test_equal_tokens_have_nothing_to_attend_to() -> None:
    op = _attention(dropout=0.5)
    trace = forward(op, Moments(ONE, ONE, sp.Integer(3)))
    assert (trace.after.q, trace.after.cov) == (2 * (1 + sp.Rational(1, 3)), 2)
    grads = backward(op, trace, GradMoments(ONE, ZERO)).grad_sq
    assert grads[ParameterKey(0, "attention.q", "weight")] == 0


def test_a_gate_multiplies_and_both_branches_pull() -> None:
    law = Linear(2, 2, mf.Draw(1))  # doubles
    op = FeedForward("ffn", law, "identity", law, gate=law)
    trace = forward(op, Moments(Q, RHO, N))
    assert (trace.after.q, trace.after.cov) == (8 * Q**2, 8 * RHO**2)
    back = backward(op, trace, GradMoments(A, B))
    assert sp.expand(back.grad.q_grad - 2 * 2 * (2 * A) * (2 * Q)) == 0
    assert back.grad_sq.keys() == {
        ParameterKey(0, f"ffn.{name}", "weight") for name in ("up", "gate", "down")
    }


def test_layer_norm_takes_the_mean_of_a_hidden_layer_away() -> None:
    law = Linear(2, 2, mf.Draw(Fraction(1, 2)))
    plain = FeedForward("ffn", law, "relu", law, inner=Norm("ffn.norm", 2, eps=0))
    two = Moments(ONE, ZERO, sp.Integer(2))
    assert sp.simplify(forward(plain, two).after.cov) == 0  # independent tokens, centred, are uncorrelated
    rms = FeedForward("ffn", law, "relu", law, inner=Norm("ffn.norm", 2, "rmsnorm", eps=0))
    assert forward(rms, two).after.cov == 1 / sp.pi
    dropped = FeedForward(
        "ffn", law, "relu", law, inner=Sequential((Dropout(0.5), Norm("ffn.norm", 2, eps=0)))
    )
    assert sp.simplify(forward(dropped, two).after.q) == 1
    assert sp.simplify(forward(dropped, Moments(ONE, ONE, sp.Integer(2))).after.cov) == (sp.pi - 1) / (
        2 * sp.pi - 1
    )


def test_two_streams_must_begin_and_end() -> None:
    with pytest.raises(InputError, match=r"Merge reads two streams and is given one: put Fork\(\)"):
        forward(Merge(NORM), SINGLE)
    op = Fork()
    with pytest.raises(InputError, match="Fork has two streams and is given the gradient of one: end with"):
        backward(op, forward(op, SINGLE), GradMoments(A, B))
    inside = Residual("residual", Sequential((Fork(), Merge(NORM))))
    with pytest.raises(MissingRuleError, match="put no second stream inside a residual branch"):
        forward(inside, SINGLE)


def test_tables_by_hand_and_a_tied_head() -> None:
    arch = Transformer(
        "test",
        "none",
        "none",
        (Repeat(Sequential((Scale(1),)), 1),),
        embedding=Embedding("embedding", 10, 4, mf.Draw(5)),
        position=Embedding("position", 9, 4, mf.Draw(3)),
        segment=Embedding("segment", 2, 4, mf.Draw(2)),
        head=Head("head", Linear(4, 10, mf.Draw(5)), tied=True),
    )
    trace = forward(arch, Moments(ZERO, ZERO, sp.Integer(3)))
    assert (trace.after.q, trace.after.cov) == (20 * 10, 20 * sp.Rational(5, 2))
    grads = backward(arch, trace, GradMoments(ONE, ONE)).grad_sq
    assert grads == {
        ParameterKey(0, "position", "weight"): 3 * 20,
        ParameterKey(0, "segment", "weight"): 9 * 20,
        # input: 3 tokens and 6 pairs, one in ten the same; output: d sum_ij Q_ij G_ij
        ParameterKey(0, "embedding", "weight"): 20 * (3 + sp.Rational(6, 10))
        + 4 * (3 * 10 + 6 * sp.Rational(5, 2)),
    }


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

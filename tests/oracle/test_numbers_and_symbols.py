"""The numeric and the symbolic recursion, written independently, agree by substitution to 12 digits."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import meanfield as mf
import meanfield.symbolic.backward as symbolic_backward
import meanfield.symbolic.forward as symbolic_forward
from meanfield.errors import MissingRuleError
from meanfield.gaussian import class_overlap, dual, dual_grad, softmax_moments
from meanfield.moments.inputs import Input
from meanfield.moments.loss import Loss
from meanfield.moments.stack import propagate
from meanfield.moments.state import Exchangeable
from meanfield.ops import (
    Activation,
    Attention,
    Draw,
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
    RelativeBias,
    Repeat,
    Residual,
    Rotary,
    Scale,
    Sequential,
    Transformer,
)
from meanfield.presets import PRESETS
from meanfield.symbolic import loss as losses
from meanfield.symbolic.backward import backward
from meanfield.symbolic.forward import forward
from meanfield.symbolic.state import Moments, Trace
from tests import strategies as own

WIDTH, FF, TOKENS = 8, 12, 5
DIGITS = 30


def _undefined(name: str, arguments: list[float]) -> float:
    """The number behind an undefined function of the symbolic reading."""
    if name.startswith("dual_"):
        return float(dual(name.removeprefix("dual_"), *arguments))
    if name.startswith("slope_dual_"):
        return float(dual_grad(name.removeprefix("slope_dual_"), *arguments))
    if name == "class_overlap":
        classes, *rest = arguments
        return float(class_overlap(round(classes), *rest))
    size, variance, *correlation = arguments
    return float(getattr(softmax_moments(round(size), variance, *(correlation or (0.0,))), name))


def evaluate(expressions: dict[ParameterKey, sp.Expr]) -> dict[ParameterKey, float]:
    """Evaluate expressions that share most of their parts, each part once."""
    known: dict[sp.Basic, sp.Expr] = {}

    def value(part: sp.Basic) -> sp.Expr:
        if part not in known:
            arguments = [value(a) for a in part.args]
            if isinstance(part, sp.core.function.AppliedUndef):
                number = sp.Float(_undefined(part.func.__name__, [float(a) for a in arguments]), DIGITS)
            else:
                # powers keep their exact exponents
                whole = part.func(*arguments) if arguments else part
                number = whole if isinstance(whole, sp.Rational) else whole.evalf(DIGITS)
            known[part] = number
        return known[part]

    return {key: float(value(expression)) for key, expression in expressions.items()}


Q, COV = Fraction(7, 4), Fraction(3, 5)  # of the input


def _trace(arch: Transformer, tokens: int) -> Trace:
    return forward(arch, Moments(sp.Rational(7, 4), sp.Rational(3, 5), sp.Integer(tokens)))


def _symbolic(arch: Transformer, tokens: int) -> dict[ParameterKey, float]:
    return evaluate(backward(arch, _trace(arch, tokens), losses.linear(sp.Integer(tokens))).grad_sq)


def _numeric(arch: Transformer, tokens: int, loss: Loss | None = None) -> dict[ParameterKey, float]:
    given_ = None if arch.embedding else Input(q=float(Q), cov=float(COV))
    return propagate(arch, Exchangeable(tokens, 1), loss=loss, given=given_).grad_sq


def _agree(numbers: dict[ParameterKey, float], symbols: dict[ParameterKey, float]) -> None:
    assert numbers.keys() == symbols.keys()
    rounding = 1e-15 * max(symbols.values())  # where terms cancel, as in the shift of a norm on keys
    for key, value in symbols.items():
        assert numbers[key] == pytest.approx(value, rel=1e-12, abs=rounding), key


def _differ(numbers: dict[ParameterKey, float], symbols: dict[ParameterKey, float]) -> None:
    """The control: no value of more than 0 passes where it is 5 % off."""
    for key, value in symbols.items():
        if value:
            assert numbers[key] != pytest.approx(1.05 * value, rel=1e-3), key


@settings(max_examples=10)
@given(
    arch=own.transformers(deepest=1),
    tokens=st.integers(1, 9),
)
def test_every_parameter_agrees(arch: Transformer, tokens: int) -> None:
    numbers = _numeric(arch, tokens)
    symbols = _symbolic(arch, tokens)
    _agree(numbers, symbols)
    _differ(numbers, symbols)


def _linear(d_in: int, d_out: int, gain: Fraction = Fraction(3, 2)) -> Linear:
    return Linear(d_in, d_out, Draw(gain / d_in), Draw(Fraction(1, 7)))


def _norm(name: str, width: int = WIDTH, **options: Any) -> Norm:
    return Norm(name, width, **options)


def _attention(**options: Any) -> Attention:
    settings_: dict[str, Any] = {
        "query": _linear(WIDTH, WIDTH),
        "key": _linear(WIDTH, WIDTH, Fraction(2)),
        "value": _linear(WIDTH, WIDTH),
        "output": _linear(WIDTH, WIDTH),
        "score_scale": 0.5,
        "kv_heads": 4,
        **options,
    }
    return Attention("attention", settings_.pop("kind", "softmax"), 4, settings_.pop("kv_heads"), **settings_)


def _ffn(activation: str = "relu", gated: bool = False, inner: Op | None = None) -> FeedForward:
    gate = _linear(WIDTH, FF, Fraction(1, 2)) if gated else None
    return FeedForward("ffn", _linear(WIDTH, FF), activation, _linear(FF, WIDTH), gate, inner)


def _pre(*, attention: Op | None = None, ffn: Op | None = None, **scales: Any) -> tuple[Op, ...]:
    """A Pre-LN layer around these."""
    first = Sequential((_norm("norm1"), attention or _attention()))
    second = Sequential((_norm("norm2"), ffn or _ffn()))
    return Residual("residual1", first, **scales), Residual("residual2", second, **scales)


def _stack(*block: Op, times: int = 1, **parts: Any) -> Transformer:
    return Transformer("test", "none", "none", (Repeat(Sequential(block), times),), **parts)


SHARED_KV = Linear(WIDTH, WIDTH // 2, Draw(Fraction(1, 4)), Draw(Fraction(1, 5)))
UNIFORM: dict[str, Any] = {"kind": "uniform", "query": None, "key": None}
B2T = Residual(
    "residual3",
    Sequential((Residual("residual1", _attention()), _norm("norm1"), Residual("residual2", _ffn()))),
    skip_scale=0.7,
)
LAWS: dict[str, Any] = {"gain": Draw(Fraction(1, 4), mean=Fraction(3, 2)), "shift": Draw(Fraction(1, 5))}
CASES: dict[str, Transformer] = {
    "gain": _stack(*_pre(attention=Sequential((_attention(), Gain("gain1", WIDTH, 0.3))))),
    "gain of 0": _stack(*_pre(ffn=Sequential((_ffn(), Gain("gain2", 1, 0))))),
    "gain per head": _stack(*_pre(attention=_attention(inner=Gain("attention.gain", 4, Fraction(2, 3))))),
    "scale": _stack(Scale(0.6), *_pre()),
    "dropout": _stack(Dropout(0.1), *_pre(attention=Sequential((_attention(), Dropout(0.2))))),
    "dropout in a branch": _stack(
        Residual("residual0", Sequential((_norm("norm0"), Dropout(0.3)))), *_pre()[1:]
    ),
    "attention dropout": _stack(*_pre(attention=_attention(dropout=0.15))),
    "uniform attention dropout": _stack(*_pre(attention=_attention(dropout=0.15, **UNIFORM))),
    "norms of heads": _stack(
        *_pre(
            attention=_attention(
                query_norm=_norm("attention.q_norm", WIDTH // 4, kind="rmsnorm"),
                key_norm=_norm("attention.k_norm", WIDTH // 4, eps=0.1),
                value_norm=_norm("attention.v_norm", affine=False),
                inner=_norm("attention.norm"),
            )
        )
    ),
    "grouped heads": _stack(*_pre(attention=_attention(kv_heads=2, key=SHARED_KV, value=SHARED_KV))),
    "no output projection": _stack(*_pre(attention=_attention(output=None))),
    "norm without gain": _stack(
        _norm("norm0", affine=False, eps=0.2), *_pre(), final_norm=_norm("final_norm")
    ),
    "rmsnorm": _stack(*_pre(), final_norm=_norm("final_norm", kind="rmsnorm")),
    "residual scales": _stack(*_pre(skip_scale=1.3, branch_scale=0.4)),
    "parallel": _stack(Residual("residual", Sequential((_norm("norm"), Parallel((_attention(), _ffn())))))),
    "parallel of correlated branches": _stack(
        Parallel((_norm("norm0"), Residual("residual0", _ffn()), Scale(0.5))), _norm("norm1")
    ),
    "branch with its own skip": _stack(B2T, _norm("norm2")),
    "dual residual": _stack(
        DualResidual("residual1", _attention(), _norm("norm1")),
        DualResidual("residual2", _ffn(), _norm("norm2")),
        entry=Fork(),
        final_norm=Merge(_norm("final_norm")),
    ),
    "dual residual of correlated branches": _stack(
        DualResidual("residual1", Residual("inner", _attention()), _norm("norm1")),
        DualResidual("residual2", _ffn(), _norm("norm2", eps=0.3)),
        entry=Fork(),
        final_norm=Merge(_norm("final_norm")),
    ),
    "norm inside a feed-forward op": _stack(*_pre(ffn=_ffn(inner=_norm("ffn.norm", FF)))),
    "rmsnorm inside a feed-forward op": _stack(
        *_pre(ffn=_ffn("gelu", inner=_norm("ffn.norm", FF, kind="rmsnorm")))
    ),
    "dropout and norm inside a feed-forward op": _stack(
        *_pre(ffn=_ffn("silu", inner=Sequential((Dropout(0.1), _norm("ffn.norm", FF)))))
    ),
    "norm inside a gated op": _stack(*_pre(ffn=_ffn("silu", gated=True, inner=_norm("ffn.norm", FF)))),
    "gains and shifts": _stack(
        *_pre(
            attention=_attention(
                query_norm=_norm("attention.q_norm", WIDTH // 4, **LAWS),
                key_norm=_norm("attention.k_norm", WIDTH // 4, kind="rmsnorm", gain=LAWS["gain"]),
                inner=_norm("attention.norm", **LAWS),
            ),
            ffn=_ffn("gelu", inner=_norm("ffn.norm", FF, **LAWS)),
        ),
        _norm("norm3", **LAWS),
        final_norm=_norm("final_norm", kind="rmsnorm", gain=LAWS["gain"]),
    ),
    "gains in a branch": _stack(
        Residual("residual0", Sequential((_norm("norm0", **LAWS), Dropout(0.3)))), *_pre()[1:]
    ),
    "gains of two streams": _stack(
        DualResidual("residual1", _attention(), _norm("norm1", **LAWS)),
        DualResidual("residual2", _ffn(), _norm("norm2", **LAWS)),
        entry=Fork(),
        final_norm=Merge(_norm("final_norm", **LAWS)),
    ),
    "activation between maps": _stack(
        Residual(
            "residual1",
            Sequential((_linear(WIDTH, FF), Activation("silu"), replace(_linear(FF, WIDTH), name="second"))),
        ),
        *_pre()[1:],
        final_norm=Sequential((_norm("final_norm"), _linear(WIDTH, WIDTH), Activation("gelu"))),
    ),
    "activation before norms": _stack(
        *_pre()[1:],
        entry=Sequential((_linear(WIDTH, WIDTH), Activation("relu"), Scale(2), _norm("norm0"))),
    ),
    "activation before an rmsnorm": _stack(
        *_pre()[1:],
        entry=Sequential((Activation("relu"), _norm("norm0", kind="rmsnorm"), _linear(WIDTH, WIDTH))),
    ),
    "activation of the skip": _stack(
        Residual("residual1", Sequential((Activation("gelu"), _norm("norm1")))), *_pre()[1:]
    ),
    "tables": _stack(
        *_pre(),
        embedding=Embedding("embedding", 11, WIDTH, Draw(Fraction(1, 3)), 2),
        position=Embedding("position", 16, WIDTH, Draw(Fraction(1, 5))),
        segment=Embedding("segment", 2, WIDTH, Draw(Fraction(1, 6)), 1.5),
        entry=Sequential((_norm("embedding_norm"), Dropout(0.1))),
    ),
    **{f"{a}": _stack(*_pre(ffn=_ffn(a))) for a in mf.ops.ACTIVATIONS},
    **{f"gated {a}": _stack(*_pre(ffn=_ffn(a, gated=True))) for a in mf.ops.ACTIVATIONS},
}


@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("case", CASES)
def test_every_op_agrees(case: str, tokens: int) -> None:
    numbers = _numeric(CASES[case], tokens)
    symbols = _symbolic(CASES[case], tokens)
    _agree(numbers, symbols)
    _differ(numbers, symbols)


HEAD = Head("head", Linear(WIDTH, 11, Draw(Fraction(1, 4))), scale=0.8)
TOKEN_TABLE = Embedding("embedding", 11, WIDTH, Draw(Fraction(1, 3)), 2)


@pytest.mark.parametrize("label_smoothing", [0, 0.1])
@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_cross_entropy_agrees(tokens: int, label_smoothing: float) -> None:
    arch = _stack(*_pre(), final_norm=_norm("final_norm"), embedding=TOKEN_TABLE, head=HEAD)
    trace = _trace(arch, tokens)
    start = losses.cross_entropy(arch, trace, label_smoothing)
    found = dict(backward(arch, trace, start).grad_sq)
    gain = ParameterKey(arch.depth + 1, "final_norm", "weight")
    found[gain] += losses.pull(arch, trace)
    symbols = evaluate(found)
    numbers = _numeric(arch, tokens, Loss("cross_entropy", label_smoothing))
    _agree(numbers, symbols)
    _differ(numbers, symbols)


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_cross_entropy_through_a_hidden_layer_agrees(tokens: int) -> None:
    """Without a norm in the hidden layer nothing leans on a gain."""
    hidden = Sequential((_linear(WIDTH, WIDTH), Activation("gelu")))
    head = replace(HEAD, transform=hidden, linear=replace(HEAD.linear, bias=Draw(Fraction(1, 3))))
    arch = _stack(*_pre(), final_norm=_norm("final_norm"), embedding=TOKEN_TABLE, head=head)
    trace = _trace(arch, tokens)
    symbols = evaluate(backward(arch, trace, losses.cross_entropy(arch, trace)).grad_sq)
    numbers = _numeric(arch, tokens, Loss("cross_entropy"))
    _agree(numbers, symbols)
    _differ(numbers, symbols)
    assert ParameterKey(arch.depth + 1, "linear", "weight") in numbers


@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("post", [True, False])
def test_mean_square_error_agrees(post: bool, tokens: int) -> None:
    arch = _stack(*_pre(), _norm("norm3")) if post else _stack(*_pre(), final_norm=_norm("final_norm"))
    symbols = evaluate(losses.mse(arch, _trace(arch, tokens)))
    numbers = _numeric(arch, tokens, Loss("mse"))
    _agree(numbers, symbols)
    _differ(numbers, symbols)


@pytest.mark.parametrize(
    "op",
    [
        _attention(causal=True),
        _attention(window=2),
        _attention(rotary=Rotary()),
        _attention(relative_bias=RelativeBias("attention.relative_bias", Draw(1))),
        _attention(softcap=30),
        _attention(alibi=(1, 0.5, 0.25, 0.125)),
        Attention("cross_attention", "uniform", 1, 1, _linear(WIDTH, WIDTH), cross=True),
        Head("head", HEAD.linear, softcap=30),
    ],
)
def test_what_is_not_exchangeable_or_gaussian_is_refused(op: Op) -> None:
    with pytest.raises(MissingRuleError, match=r"symbolic.forward has no rule for .*numeric prediction"):
        forward(op, Moments(sp.Integer(1), sp.Integer(0), sp.Integer(2)))


def test_losses_without_a_rule_are_refused() -> None:
    arch = _stack(*_pre())
    with pytest.raises(MissingRuleError, match="mse without a norm at the end"):
        losses.mse(arch, _trace(arch, 2))
    with pytest.raises(MissingRuleError, match="cross entropy without an untied head"):
        losses.cross_entropy(arch, _trace(arch, 2))
    tied = _stack(*_pre(), embedding=TOKEN_TABLE, head=replace(HEAD, tied=True))
    with pytest.raises(MissingRuleError, match="cross entropy without an untied head"):
        losses.cross_entropy(tied, _trace(tied, 2))


def _too_large(result: Any) -> Any:
    """The same result with every expression 5 % larger."""
    if isinstance(result, sp.Expr):
        return sp.Rational(21, 20) * result
    if isinstance(result, tuple):
        return tuple(_too_large(part) for part in result)
    return result.scaled(sp.Rational(21, 20))


WRONG: list[tuple[ModuleType, str, str]] = [
    (symbolic_forward, "mix", "grouped heads"),
    (symbolic_forward, "dual", "gated silu"),
    (symbolic_forward, "coefficient", "branch with its own skip"),
    (symbolic_forward, "lookup", "tables"),
    (symbolic_backward, "pull_values", "attention dropout"),
    (symbolic_backward, "pull_scores", "norms of heads"),
    (symbolic_backward, "slope_dual", "tanh"),
    (symbolic_backward, "dual", "gated relu"),
    (symbolic_backward, "coefficient", "dual residual"),
    (symbolic_backward, "table_gradient", "tables"),
]


@pytest.mark.parametrize(("module", "rule", "case"), WRONG)
def test_a_rule_wrong_by_5_percent_is_rejected(
    module: ModuleType, rule: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(module, rule)
    monkeypatch.setattr(module, rule, lambda *args: _too_large(right(*args)))
    with pytest.raises(AssertionError):
        _agree(_numeric(CASES[case], TOKENS), _symbolic(CASES[case], TOKENS))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_agrees(preset: str) -> None:
    arch = PRESETS[preset](width=WIDTH, depth=2)
    numbers, symbols = _numeric(arch, TOKENS), _symbolic(arch, TOKENS)
    _agree(numbers, symbols)
    _differ(numbers, symbols)

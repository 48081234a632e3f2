"""The numeric and the symbolic recursion, written independently, agree by substitution to 12 digits."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import meanfield as mf
from meanfield.errors import MissingRuleError
from meanfield.gaussian import dual, dual_grad, softmax_moments
from meanfield.moments.loss import Loss
from meanfield.moments.stack import propagate
from meanfield.moments.state import Exchangeable
from meanfield.ops import (
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
from meanfield.symbolic import loss as losses
from meanfield.symbolic.backward import backward
from meanfield.symbolic.forward import forward
from meanfield.symbolic.state import GradMoments, Moments
from tests import strategies as own

WIDTH, FF, TOKENS = 8, 12, 5
DIGITS = 30


def _undefined(name: str, arguments: list[float]) -> float:
    """The number behind an undefined function of the symbolic reading."""
    if name.startswith("dual_"):
        return float(dual(name.removeprefix("dual_"), *arguments))
    if name.startswith("slope_dual_"):
        return float(dual_grad(name.removeprefix("slope_dual_"), *arguments))
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


def _symbolic(
    arch: Transformer, tokens: int, start: Callable[[Moments], GradMoments] | None = None
) -> dict[ParameterKey, float]:
    trace = forward(arch, Moments(sp.Integer(1), sp.Integer(0), sp.Integer(tokens)))
    gradient = losses.linear(sp.Integer(tokens)) if start is None else start(trace.after)
    return evaluate(backward(arch, trace, gradient).grad_sq)


def _agree(numbers: dict[ParameterKey, float], symbols: dict[ParameterKey, float]) -> None:
    assert numbers.keys() == symbols.keys()
    for key, value in symbols.items():
        assert numbers[key] == pytest.approx(value, rel=1e-12, abs=1e-300), key


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
    numbers = propagate(arch, Exchangeable(tokens, 1)).grad_sq
    symbols = _symbolic(arch, tokens)
    _agree(numbers, symbols)
    _differ(numbers, symbols)

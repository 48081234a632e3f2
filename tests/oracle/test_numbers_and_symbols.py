"""The numeric and the symbolic recursion, written independently, agree by substitution to 12 digits."""

from __future__ import annotations

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import meanfield as mf
from meanfield.moments.stack import propagate
from meanfield.moments.state import Exchangeable
from meanfield.ops import ParameterKey
from meanfield.symbolic.backward import backward
from meanfield.symbolic.forward import forward
from meanfield.symbolic.state import GradMoments, Moments
from tests import strategies as own


def _symbolic(arch: mf.Transformer, tokens: int) -> dict[ParameterKey, float]:
    one = Moments(sp.Integer(1), sp.Integer(0), sp.Integer(tokens))
    trace = forward(arch, one)
    start = GradMoments(sp.Rational(1, tokens**2), sp.Integer(0))
    return {key: float(value.evalf(20)) for key, value in backward(arch, trace, start).grad_sq.items()}


@settings(max_examples=10)
@given(
    # exact expressions of deeper stacks are too large to write out; a layer holds every op
    arch=own.transformers(deepest=1, kinds=("uniform",)).filter(
        lambda a: a.feed_forward.activation == "relu"
    ),
    tokens=st.integers(1, 9),
)
def test_every_parameter_agrees(arch: mf.Transformer, tokens: int) -> None:
    numbers = propagate(arch, Exchangeable(tokens, 1)).grad_sq
    symbols = _symbolic(arch, tokens)
    assert numbers.keys() == symbols.keys()
    for key, value in symbols.items():
        assert numbers[key] == pytest.approx(value, rel=1e-12), key
        assert numbers[key] != pytest.approx(1.05 * value, rel=1e-3), key

"""Every reading covers every op, in one order, or the stack that contains it does."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import meanfield.moments.backward
import meanfield.moments.forward
import meanfield.symbolic.backward
import meanfield.symbolic.forward
import meanfield.weight_free.backward
import meanfield.weight_free.forward
from empirical.build import build_op
from meanfield import ops
from meanfield.errors import MissingRuleError
from meanfield.moments.backward import backward
from meanfield.moments.forward import forward
from meanfield.moments.record import Record
from meanfield.moments.state import Exchangeable
from meanfield.ops import Op
from meanfield.symbolic.backward import backward as symbolic_backward
from meanfield.symbolic.forward import forward as symbolic_forward
from meanfield.weight_free.backward import backward as sampled_backward
from meanfield.weight_free.forward import forward as sampled_forward

ALL_OPS = [
    value
    for _, value in inspect.getmembers(ops, inspect.isclass)
    if issubclass(value, Op) and value is not Op
]
# Numbers read these three as parts of a stack (moments/stack.py, moments/loss.py), not as maps of kernels.
OF_A_STACK = {ops.Repeat, ops.Embedding, ops.Head}

BUILD = import_module("empirical.build")  # the package exports a function of that name

READINGS: dict[str, tuple[Any, ModuleType, set[type]]] = {
    "moments.forward": (forward, meanfield.moments.forward, OF_A_STACK),
    "moments.backward": (backward, meanfield.moments.backward, OF_A_STACK),
    "symbolic.forward": (symbolic_forward, meanfield.symbolic.forward, set()),
    "symbolic.backward": (symbolic_backward, meanfield.symbolic.backward, set()),
    "weight_free.forward": (sampled_forward, meanfield.weight_free.forward, set()),
    "weight_free.backward": (sampled_backward, meanfield.weight_free.backward, set()),
    "empirical.build": (build_op, BUILD, set()),
}


@pytest.mark.parametrize("reading", READINGS)
def test_every_op_has_a_rule(reading: str) -> None:
    function, _, elsewhere = READINGS[reading]
    covered = {op for op in ALL_OPS if op in function.registry}
    assert covered | elsewhere == set(ALL_OPS)
    assert not covered & elsewhere


def _order(function: Any, module: ModuleType) -> list[str]:
    """Names of the handlers in the order of the file, without a leading underscore."""
    handlers = {
        rule.__name__ for op, rule in function.registry.items() if isinstance(op, type) and issubclass(op, Op)
    }
    tree = ast.parse(inspect.getsource(module))
    return [n.name.lstrip("_") for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in handlers]


def test_handlers_stand_in_one_order_in_every_file() -> None:
    longest = _order(build_op, BUILD)
    assert len(longest) == len(ALL_OPS)
    for function, module, _ in READINGS.values():
        names = [name for name in _order(function, module) if name in longest]
        assert names == [name for name in longest if name in names]


class Unknown(Op):
    """An op that nobody has taught to any reading."""


@pytest.mark.parametrize("reading", READINGS)
def test_an_unknown_op_is_refused_by_name(reading: str) -> None:
    function, _, _ = READINGS[reading]
    rest: tuple[Any, ...] = {
        "moments.forward": (None, Exchangeable(1, 1)),
        "moments.backward": (None, None, Exchangeable(1, 1), Record()),
        "symbolic.forward": (None,),
        "symbolic.backward": (None, None),
        "weight_free.forward": (None, None),
        "weight_free.backward": (None, None, None),
        "empirical.build": (),
    }[reading]
    with pytest.raises(MissingRuleError, match=f"{reading} has no rule for Unknown"):
        function(Unknown(), *rest)

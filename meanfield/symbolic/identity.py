"""How much of its input an op hands on: what a skip connection around it is correlated with."""

from __future__ import annotations

from itertools import combinations

import sympy as sp

from meanfield.errors import MissingRuleError
from meanfield.ops import (
    Activation,
    Attention,
    Dropout,
    FeedForward,
    Gain,
    Linear,
    Norm,
    Parallel,
    Repeat,
    Residual,
    Scale,
    Sequential,
)
from meanfield.symbolic.activations import slope_dual
from meanfield.symbolic.state import Trace, centred, exact


def coefficient(trace: Trace) -> sp.Expr:
    """The number k in f(x) = k x + (what is uncorrelated with x), of an op f at its moments.

        E<x_i, f(x)_j> = k E<x_i, x_j>;  backward: E<g_i, (J^T g)_j> = k E<g_i, g_j>

    It is 0 for an op that ends in fresh centred weights, gain/s for a norm, 1 for dropout on average,
    skip + branch k for a residual sum; sums for parallel branches, products for sequences.

    Args:
        trace: The op's trace.

    Returns:
        The coefficient.

    Raises:
        MissingRuleError: If there is no rule for the op.

    Source:
        derived here; poole2016, Sec. 2 (fresh weights).
    """
    op, inner = trace.op, trace.inner
    match op:
        case Linear() | Attention() | FeedForward():
            return sp.Integer(0)
        case Norm():
            return exact(op.gain.mean) / sp.sqrt(centred(op, trace.before).q + exact(op.eps))
        case Activation():  # E phi'(u), of which two independent coordinates give the square
            return sp.sqrt(slope_dual(op.activation, trace.before.q, sp.Integer(0)))
        case Gain():
            return exact(op.value)
        case Scale():
            return exact(op.factor)
        case Dropout():
            return sp.Integer(1)
        case Residual():
            return exact(op.skip_scale) + exact(op.branch_scale) * coefficient(inner[0])
        case Parallel():
            return sp.Add(*(coefficient(branch) for branch in inner))
        case Sequential() | Repeat():
            return sp.Mul(*(coefficient(part) for part in inner))
        case _:
            raise MissingRuleError(op, "symbolic.identity", "put no second stream inside a residual branch")


def shared_products(coefficients: list[sp.Expr]) -> sp.Expr:
    """2 sum_(a < b) k_a k_b: what independent branches of one input have in common, times its moments."""
    return sp.Add(*(2 * a * b for a, b in combinations(coefficients, 2)))

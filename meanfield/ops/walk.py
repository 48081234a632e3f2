"""Walks through a tree of ops."""

from __future__ import annotations

from collections.abc import Iterator

from meanfield.ops.attention import Attention
from meanfield.ops.base import Op
from meanfield.ops.feed_forward import FeedForward
from meanfield.ops.structure import DualResidual, Merge, Parallel, Repeat, Residual, Sequential


def children(op: Op) -> tuple[Op, ...]:
    """List the ops directly inside an op, in the order of computation.

    Args:
        op: Any op.

    Returns:
        Its children; empty for a leaf.
    """
    match op:
        case Sequential(ops=ops):
            return ops
        case Parallel(branches=branches):
            return branches
        case Repeat(block=block):
            return (block,)
        case Residual(branch=branch):
            return (branch,)
        case DualResidual(branch=branch, norm=norm):
            return (branch, norm)
        case Merge(norm=norm):
            return (norm,)
        case Attention():
            norms = op.query_norm, op.key_norm, op.value_norm
            parts = op.query, op.key, op.value, *norms, op.inner, op.output
            return tuple(part for part in parts if part is not None)
        case FeedForward():
            return tuple(part for part in (op.gate, op.up, op.inner, op.down) if part is not None)
        case _:
            return ()


def walk(op: Op) -> Iterator[Op]:
    """Yield an op and every op inside it, outermost first."""
    yield op
    for child in children(op):
        yield from walk(child)

"""What a layer computes, as a flat table: norms by their place, and every other choice by its name."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeAlias

from meanfield.ops import (
    Attention,
    DualResidual,
    FeedForward,
    Gain,
    Linear,
    Merge,
    Norm,
    Op,
    Parallel,
    RelativeBias,
    Residual,
    Scale,
    Sequential,
)

Value: TypeAlias = object
Features: TypeAlias = dict[str, Value]

NORM = "norm "
SKIP = "skip connection around "
"""Beginnings of the names of features; the rest says where."""

PRESENT = "present"
"""Value of a feature that is the name of a sub-layer."""


def features(block: Op) -> Features:
    """List what a layer computes, without the laws of its weights.

    Norms are counted by place, such as ``"norm behind the sum with attention"``; factors of skip connection
    and branch, and every field of attention and feed-forward op, have a row each.

    Args:
        block: The op of one layer.

    Returns:
        Values by name.

    Example:
        >>> import meanfield as mf
        >>> block = mf.pre_ln(width=8, depth=1, heads=2).layers[0].block
        >>> [name for name in features(block) if name.startswith(NORM)]
        ['norm before attention', 'norm before ffn']
    """
    found: Features = {}
    _walk(block, found, "")
    return found


def _count(found: Features, place: str) -> None:
    before = found.get(NORM + place, 0)
    assert isinstance(before, int)
    found[NORM + place] = before + 1


def _sublayers(op: Op) -> list[str]:
    """Names of attention and feed-forward ops inside an op, in order."""
    match op:
        case Attention(name=name) | FeedForward(name=name):
            return [name]
        case Sequential(ops=ops):
            return [name for child in ops for name in _sublayers(child)]
        case Parallel(branches=branches):
            return [name for child in branches for name in _sublayers(child)]
        case Residual(branch=branch) | DualResidual(branch=branch):
            return _sublayers(branch)
        case _:
            return []


def _walk(op: Op, found: Features, place: str) -> None:
    """Add what an op is; ``place`` is where it stands."""
    match op:
        case Sequential(ops=ops):
            _sequence(ops, found, place)
        case Parallel(branches=branches):
            found["side by side"] = " and ".join(_sublayers(op))
            for branch in branches:
                _walk(branch, found, place)
        case Residual(branch=branch, skip_scale=skip, branch_scale=scale):
            where = " and ".join(_sublayers(branch)) or "nothing"
            found[SKIP + where] = (float(skip), float(scale))
            _walk(branch, found, place)
        case DualResidual(branch=branch):
            where = " and ".join(_sublayers(branch)) or "nothing"
            found[SKIP + where] = "two streams"
            _count(found, f"behind the sum with {where}")
            _walk(branch, found, place)
        case Norm(kind=kind):
            _count(found, place)
            found.setdefault(f"kind of norm {place}", kind)
        case Merge(norm=norm):
            _walk(norm, found, place)
        case Attention(name=name) | FeedForward(name=name):
            _parameters(op, found, name)
        case Gain() | Scale():
            value = op.value if isinstance(op, Gain) else op.factor
            found[f"{'learned' if isinstance(op, Gain) else 'constant'} factor {place}"] = float(value)
        case _:
            found[f"{type(op).__name__.lower()} {place}"] = str(op)


def _sequence(ops: tuple[Op, ...], found: Features, outer: str) -> None:
    """Place each op of a sequence by the sub-layer, or the residual sum, that it stands before or behind."""
    for k, op in enumerate(ops):
        behind = next((o for o in reversed(ops[:k]) if _sublayers(o)), None)
        before = next((o for o in ops[k:] if _sublayers(o)), None)
        if behind is not None:
            kind = "the sum with " if isinstance(behind, Residual) else ""
            place = f"behind {kind}{' and '.join(_sublayers(behind))}"
        else:
            place = f"before {' and '.join(_sublayers(before))}" if before is not None else outer
        _walk(op, found, place)


def _parameters(op: Attention | FeedForward, found: Features, name: str) -> None:
    """Every field of a sub-layer: norms and inner ops by place, maps by size, the rest by value."""
    found[name] = PRESENT
    for field in fields(op):
        value = getattr(op, field.name)
        if field.name == "name" or value is None:
            continue
        what = field.name.replace("_", " ")
        if field.name == "inner":
            _walk(value, found, f"inside {name}")
        elif isinstance(value, Norm):
            _count(found, f"on {what.removesuffix(' norm')} of {name}")
        elif isinstance(value, Linear):
            found[f"{name} {what}"] = (value.d_in, value.d_out, "bias" if value.bias else "no bias")
        elif isinstance(value, RelativeBias):
            found[f"{name} {what}"] = True
        else:
            found[f"{name} {what}"] = value
